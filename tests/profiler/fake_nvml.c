/* A stand-in for libnvidia-ml.so.1, loaded by the real pynvml. Every call looks at the environment anew:
 *
 *   FAKE_NVML_UUIDS    devices there are, in PCI order, e.g. "GPU-b,GPU-a,MIG-c"
 *   FAKE_NVML_REASONS  clocks' event reasons, a number
 *   FAKE_NVML_PIDS     compute processes, e.g. "41,42"
 *   FAKE_NVML_FAIL     functions that fail, with NVML's code, e.g. "nvmlDeviceGetPowerUsage=4,nvmlInitWithFlags=9";
 *                      "*=15" is all of them
 *
 * -DOLD_DRIVER leaves out what drivers before 535 do not have.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int status;
typedef struct { int index; } *device;
enum { SUCCESS = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7 };

static int slots[16];

static const char *setting(const char *name) {
  const char *value = getenv(name);
  return value ? value : "";
}

static status failure(const char *function) {
  const char *at = setting("FAKE_NVML_FAIL");
  while (*at) {
    size_t length = strcspn(at, "=,");
    if (at[length] == '=' && ((length == 1 && *at == '*') ||
                              (length == strlen(function) && strncmp(at, function, length) == 0)))
      return atoi(at + length + 1);
    at += strcspn(at, ",");
    at += *at == ',';
  }
  return SUCCESS;
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

#ifndef OLD_DRIVER
struct temperature { unsigned version; int sensor; int celsius; };
status nvmlDeviceGetTemperatureV(device handle, struct temperature *out) {
  ENTER_WHOLE(handle);
  out->celsius = 45;
  return SUCCESS;
}

status nvmlDeviceGetCurrentClocksEventReasons(device handle, unsigned long long *out) {
  ENTER_WHOLE(handle);
  *out = strtoull(setting("FAKE_NVML_REASONS"), NULL, 0);
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
  *out = strtoull(setting("FAKE_NVML_REASONS"), NULL, 0);
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
  ENTER_WHOLE(handle);
  *current = *pending = 0;
  return SUCCESS;
}

status nvmlDeviceGetEccMode(device handle, int *current, int *pending) {
  ENTER_WHOLE(handle);
  *current = *pending = 1;
  return SUCCESS;
}

struct process { unsigned pid; unsigned long long used; unsigned gpu_instance, compute_instance; };
status nvmlDeviceGetComputeRunningProcesses_v3(device handle, unsigned *count, struct process *out) {
  char pid[32];
  unsigned room = *count, found = 0;
  ENTER();
  (void)handle;
  for (; item(setting("FAKE_NVML_PIDS"), (int)found, pid, sizeof pid); found++)
    if (out && found < room) out[found] = (struct process){(unsigned)atoi(pid), 1ULL << 30, 0, 0};
  *count = found;
  return found > room ? INSUFFICIENT_SIZE : SUCCESS;
}
