"""Worker processes that measure and train, and the pool that hands them jobs.

    driver   ProcessPool (pool)  -  Worker (worker), one a plan  -  DriverEnd (channel)
    worker   serve (process)     -  WorkerEnd (channel)

Kept free of torch, so that a process is there at once; what is heavy comes with the evaluator.
"""
