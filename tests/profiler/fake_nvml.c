/* A stand-in for libnvidia-ml.so.1, loaded by the real pynvml. Every call looks at the environment anew:
 *
 *   FAKE_NVML_UUIDS    devices there are, in PCI order, e.g. "GPU-b,GPU-a,MIG-c"
 *   FAKE_NVML_MIG      "1": MIG is on, and slices say so too; by default they do not say
 *   FAKE_NVML_REASONS  clocks' event reasons, a number
 *   FAKE_NVML_PIDS     compute processes, e.g. "41,42"
 *   FAKE_NVML_FAIL     functions that fail, with NVML's code, e.g. "nvmlDeviceGetPowerUsage=4,nvmlInitWithFlags=9";
 *                      "*=15" is all of them
 *   FAKE_NVML_VIOLATIONS  nanoseconds that a policy has held the clocks down, e.g. "1=5000000,3=0"; a policy that is
 *                      not named is not supported; by default all are, at 0
 *   FAKE_NVML_ENERGY_MJ  the energy counter, a number; or, instead,
 *   FAKE_NVML_ENERGY_MW  the power that it counts on the real clock, and
 *   FAKE_NVML_ENERGY_REFRESH_MS  between its steps, 100 by default; without any of these it is not supported
 *
 * With _AFTER behind its name, REASONS, PIDS, FAIL, VIOLATIONS and ENERGY_MJ are scripts: "3:A;7:B" is A from the
 * fourth call on, B from the eighth: of the function that reads it, for FAIL of the function that fails, for "*" of all
 * together. Until then the plain setting holds.
 *
 * -DOLD_DRIVER leaves out what drivers before 535 do not have, -DOLDER_DRIVER what those before 510 do not.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef int status;
typedef struct { int index; } *device;
enum { SUCCESS = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7 };

static int slots[16];

static const char *setting(const char *name) {
  const char *value = getenv(name);
  return value ? value : "";
}

/* What a setting is after so many earlier calls: the last part of its script that is due, else the plain setting. */
static const char *scripted(const char *name, int calls, char *out, size_t size) {
  char script[64];
  const char *found = setting(name), *at;
  snprintf(script, sizeof script, "%s_AFTER", name);
  for (at = setting(script); *at; at += *at == ';') {
    size_t length = strcspn(at, ";"), digits = strcspn(at, ":;");
    if (at[digits] == ':' && calls >= atoi(at)) {
      snprintf(out, size, "%.*s", (int)(length - digits - 1), at + digits + 1);
      found = out;
    }
    at += length;
  }
  return found;
}

/* How often a function was called before. */
static int earlier_calls(const char *function) {
  static struct { const char *name; int calls; } seen[64];
  int i = 0;
  while (i < 63 && seen[i].name && strcmp(seen[i].name, function) != 0) i++;
  seen[i].name = function;
  return seen[i].calls++;
}

static status failing(const char *list, const char *name) {
  while (*list) {
    size_t length = strcspn(list, "=,");
    if (list[length] == '=' && length == strlen(name) && strncmp(list, name, length) == 0)
      return atoi(list + length + 1);
    list += strcspn(list, ",");
    list += *list == ',';
  }
  return SUCCESS;
}

static status failure(const char *function) {
  static int calls;
  char part[512];
  status code = failing(scripted("FAKE_NVML_FAIL", earlier_calls(function), part, sizeof part), function);
  int all = calls++;
  return code ? code : failing(scripted("FAKE_NVML_FAIL", all, part, sizeof part), "*");
}

#define ENTER()                                                                                                        \
  do {                                                                                                                 \
    status failed = failure(__func__);                                                                                 \
    if (failed) return failed;                                                                                         \
  } while (0)

/* Copies the item at index of a comma-separated list; 0 where the list is shorter. */
static int item(const char *list, int index, char *out, size_t size) {
  while (*list) {
    size_t length = strcspn(list, ",");
    if (index-- == 0) {
      snprintf(out, size, "%.*s", (int)length, list);
      return 1;
    }
    list += length;
    list += *list == ',';
  }
  return 0;
}

static int is_slice(device handle) {
  char uuid[96] = "";
  item(setting("FAKE_NVML_UUIDS"), handle->index, uuid, sizeof uuid);
  return strncmp(uuid, "MIG-", 4) == 0;
}

/* A slice has no counters of its own. */
#define ENTER_WHOLE(handle)                                                                                            \
  do {                                                                                                                 \
    ENTER();                                                                                                           \
    if (is_slice(handle)) return NOT_SUPPORTED;                                                                        \
  } while (0)

status nvmlInitWithFlags(unsigned flags) { ENTER(); (void)flags; return SUCCESS; }
status nvmlShutdown(void) { ENTER(); return SUCCESS; }
const char *nvmlErrorString(status code) { (void)code; return "an error of the stand-in"; }

status nvmlSystemGetDriverVersion(char *out, unsigned size) {
  ENTER();
  snprintf(out, size, "580.65.06");
  return SUCCESS;
}

status nvmlSystemGetCudaDriverVersion(int *out) { ENTER(); *out = 13010; return SUCCESS; }

status nvmlDeviceGetHandleByUUID(const char *uuid, device *out) {
  char candidate[96];
  ENTER();
  for (int i = 0; i < 16 && item(setting("FAKE_NVML_UUIDS"), i, candidate, sizeof candidate); i++)
    if (strcmp(candidate, uuid) == 0) {
      slots[i] = i;
      *out = (device)&slots[i];
      return SUCCESS;
    }
  return NOT_FOUND;
}

status nvmlDeviceGetUUID(device handle, char *out, unsigned size) {
  ENTER();
  return item(setting("FAKE_NVML_UUIDS"), handle->index, out, size) ? SUCCESS : INVALID_ARGUMENT;
}

status nvmlDeviceGetName(device handle, char *out, unsigned size) {
  ENTER();
  snprintf(out, size, "Stand-in %d%s", handle->index, is_slice(handle) ? " MIG 1g.10gb" : "");
  return SUCCESS;
}

/* Clock types of nvml.h: 1 the multiprocessors, 2 the memory. */
status nvmlDeviceGetClockInfo(device handle, int type, unsigned *out) {
  ENTER_WHOLE(handle);
  *out = type == 1 ? 1410 + handle->index : 2600;
  return SUCCESS;
}

status nvmlDeviceGetMaxClockInfo(device handle, int type, unsigned *out) {
  ENTER_WHOLE(handle);
  *out = type == 1 ? 1980 : 2619;
  return SUCCESS;
}

static unsigned long long reasons(void) {
  static int calls;
  char part[64];
  return strtoull(scripted("FAKE_NVML_REASONS", calls++, part, sizeof part), NULL, 0);
}

#if !defined OLD_DRIVER && !defined OLDER_DRIVER
struct temperature { unsigned version; int sensor; int celsius; };
status nvmlDeviceGetTemperatureV(device handle, struct temperature *out) {
  ENTER_WHOLE(handle);
  out->celsius = 45;
  return SUCCESS;
}

status nvmlDeviceGetCurrentClocksEventReasons(device handle, unsigned long long *out) {
  ENTER_WHOLE(handle);
  *out = reasons();
  return SUCCESS;
}
#endif

status nvmlDeviceGetTemperature(device handle, int sensor, unsigned *out) {
  ENTER_WHOLE(handle);
  (void)sensor;
  *out = 46;
  return SUCCESS;
}

status nvmlDeviceGetCurrentClocksThrottleReasons(device handle, unsigned long long *out) {
  ENTER_WHOLE(handle);
  *out = reasons();
  return SUCCESS;
}

status nvmlDeviceGetPowerUsage(device handle, unsigned *out) { ENTER_WHOLE(handle); *out = 123400; return SUCCESS; }
status nvmlDeviceGetEnforcedPowerLimit(device handle, unsigned *out) {
  ENTER_WHOLE(handle);
  *out = 700000;
  return SUCCESS;
}

status nvmlDeviceGetUtilizationRates(device handle, unsigned out[2]) {
  ENTER_WHOLE(handle);
  out[0] = 97;
  out[1] = 31;
  return SUCCESS;
}

struct memory { unsigned long long total, free, used; };
status nvmlDeviceGetMemoryInfo(device handle, struct memory *out) {
  ENTER();
  (void)handle;
  out->total = 81920ULL << 20;
  out->used = 1024ULL << 20;
  out->free = out->total - out->used;
  return SUCCESS;
}

status nvmlDeviceGetPersistenceMode(device handle, int *out) { ENTER_WHOLE(handle); *out = 1; return SUCCESS; }

status nvmlDeviceGetMigMode(device handle, unsigned *current, unsigned *pending) {
  ENTER();
  if (is_slice(handle) && !*setting("FAKE_NVML_MIG")) return NOT_SUPPORTED;
  *current = *pending = atoi(setting("FAKE_NVML_MIG"));
  return SUCCESS;
}

status nvmlDeviceGetEccMode(device handle, int *current, int *pending) {
  ENTER_WHOLE(handle);
  *current = *pending = 1;
  return SUCCESS;
}

/* Policies of nvml.h: 0 power, 1 thermal, 3 board limit. */
struct violation { unsigned long long reference_us, violation_ns; };
status nvmlDeviceGetViolationStatus(device handle, int policy, struct violation *out) {
  static int calls[16];
  char part[256];
  const char *at;
  ENTER_WHOLE(handle);
  if (policy < 0 || policy > 15) return INVALID_ARGUMENT;
  at = scripted("FAKE_NVML_VIOLATIONS", calls[policy]++, part, sizeof part);
  *out = (struct violation){0, 0};
  if (!*at) return SUCCESS;
  for (; *at; at += strcspn(at, ","), at += *at == ',')
    if (atoi(at) == policy) {
      out->violation_ns = strtoull(at + strcspn(at, "=") + 1, NULL, 0);
      return SUCCESS;
    }
  return NOT_SUPPORTED;
}

/* Counts on at each refresh by the power of the moment, so that a test may change it. */
static unsigned long long counted_mj(double power_mw, double refresh_ms) {
  static double energy_mj = 1e6, refreshes = -1;
  struct timespec now;
  double passed;
  clock_gettime(CLOCK_MONOTONIC, &now);
  passed = (double)(long long)((now.tv_sec * 1e3 + now.tv_nsec / 1e6) / refresh_ms);
  if (refreshes >= 0) energy_mj += (passed - refreshes) * refresh_ms * power_mw / 1e3;
  refreshes = passed;
  return (unsigned long long)energy_mj;
}

status nvmlDeviceGetTotalEnergyConsumption(device handle, unsigned long long *out) {
  static int calls;
  char part[64];
  const char *given, *power = setting("FAKE_NVML_ENERGY_MW"), *refresh = setting("FAKE_NVML_ENERGY_REFRESH_MS");
  ENTER_WHOLE(handle);
  given = scripted("FAKE_NVML_ENERGY_MJ", calls++, part, sizeof part);
  if (!*given && !*power) return NOT_SUPPORTED;
  *out = *given ? strtoull(given, NULL, 0) : counted_mj(atof(power), *refresh ? atof(refresh) : 100);
  return SUCCESS;
}

#ifndef OLDER_DRIVER
struct process { unsigned pid; unsigned long long used; unsigned gpu_instance, compute_instance; };
status nvmlDeviceGetComputeRunningProcesses_v3(device handle, unsigned *count, struct process *out) {
  static int looks; /* pynvml asks for the count first, then for the list */
  char pid[32], part[256];
  const char *pids;
  unsigned room = *count, found = 0;
  ENTER();
  (void)handle;
  pids = scripted("FAKE_NVML_PIDS", out ? looks - 1 : looks++, part, sizeof part);
  for (; item(pids, (int)found, pid, sizeof pid); found++)
    if (out && found < room) out[found] = (struct process){(unsigned)atoi(pid), 1ULL << 30, 0, 0};
  *count = found;
  return found > room ? INSUFFICIENT_SIZE : SUCCESS;
}
#endif
