"""A worker that measures nothing: it reads a plan and does what the nets' names say.

A net is ``MEDIAN[;DEED[=DETAIL][@PROCESS or RUNTIME]]``: ``3.5`` answers with that median, ``3.5;die=9@1`` dies of
signal 9 in process 1. Arguments: a file that every plan is added to, and one with a measurement to answer with.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path


def main() -> None:
    log, template = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text())
    plan = json.loads(sys.stdin.readline())
    with log.open("a") as out:
        out.write(json.dumps({**plan, "pid": os.getpid(), "malloc": os.environ.get("MALLOC_TRIM_THRESHOLD_")}) + "\n")
    outcomes = [answer(cell, plan, template) for cell in plan["cells"]]
    for place, outcome in enumerate(outcomes):
        say(json.dumps({"cell": place, **outcome}))
    if any("linger" in cell["net"] for cell in plan["cells"]):
        sleep()


def sleep() -> None:
    """For long, and then a file says that nobody ended it."""
    time.sleep(60)
    Path(sys.argv[1]).with_suffix(".slept").touch()


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def answer(cell: dict[str, object], plan: dict[str, object], template: dict[str, object]) -> dict[str, object]:
    median, *behaviours = str(cell["net"]).split(";")
    for behaviour in behaviours:
        deed, _, where = behaviour.partition("@")
        if where and where not in (str(plan["process"]), cell["runtime"]):
            continue
        what, _, detail = deed.partition("=")
        if what == "silent":
            os._exit(int(detail))
        progress = {"phase": "check", "samples": 3, "seconds": 0.5, "median_ms": 1.0, "relative_width": 0.1}
        progress["waiting"] = None
        say(json.dumps({"progress": {**progress, "name": cell["net"]}}))
        if what == "die":
            sys.stderr.write("".join(f"chatter {number}\n" for number in range(30)))
            sys.stderr.flush()
            os.kill(os.getpid(), int(detail))
        if what == "alone" and len(plan["cells"]) > 1:  # type: ignore[arg-type]
            os._exit(7)
        if what == "crowded" and len(plan["cells"]) > 1:  # type: ignore[arg-type]
            return {"error": "DeviceMemoryError", "message": "CUDA out of memory"}
        if what == "orphan":
            if os.fork() == 0:
                sleep()
            os._exit(int(detail))
        if what == "babble":
            say(detail)
        if what == "hang":
            sleep()
        if what == "waits":
            progress.update(phase="wait", waiting="cpu is held by another process; waiting")
            say(json.dumps({"progress": {**progress, "name": ""}}))
        if what == "error":
            return {"error": detail, "message": f"{cell['net']} in process {plan['process']}"}
    process = int(str(plan["process"]))
    samples = [float(median) + 0.001 * step for step in (-2, -1, 0, 1, 2)] * 8
    block = {"process": process, "round": 0, "start_seconds": 0.0, "count": len(samples), "pace_us": None}
    return {
        "measurement": {
            **template,
            "samples_ms": samples,
            "median_ms": float(median),
            "blocks": [{**block, "discarded": None}],
            "quiet_us": 5.0 - process,
        }
    }


if __name__ == "__main__":
    main()
