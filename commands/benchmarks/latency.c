// Times single calls of ONNX files on ONNX Runtime's C API, as an app makes them: one thread, all memory made beforehand.
//
//     latency VALUES [arena|heap|pool MODEL] ...
//
// Each MODEL has one input and one output of float32; a dynamic axis counts as one. VALUES is a file of float32 numbers,
// which the inputs are filled with, from its first again where it is too short. A kernel's memory comes from ONNX Runtime's
// arena (its default), from the heap (a session option), or from a pool of this program's own, below.
//
// Of each model, a line with its output is printed; then, for each line "PLACE NANOSECONDS" on the standard input, a line
// with the nanoseconds of every call of the model in that place until so much time is over, one call at least.

#define _POSIX_C_SOURCE 200809L
#include <inttypes.h>
#include <onnxruntime_c_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const OrtApi *ort;
static OrtMemoryInfo *memory;

_Noreturn static void fail(const char *what, const char *why) {
  fprintf(stderr, "latency: error: %s: %s\n", what, why);
  exit(1);
}

static void check(OrtStatus *status) {
  if (status) fail("ONNX Runtime", ort->GetErrorMessage(status));
}

static void *zeros(size_t count, size_t size) {
  void *made = calloc(count ? count : 1, size);
  if (!made) fail("memory", "not enough");
  return made;
}

// A pool for one thread: what is given back is kept for the next who asks for as much, in a list for each power of two.
// A recurrent kernel asks for a dozen buffers in every call, always the same.
enum { LINE = 64, SMALLEST = 6, LARGEST = 48 };
typedef union Block {
  struct {
    union Block *next;
    int power;
  } of;
  char line[LINE]; // so that what follows is aligned
} Block;
static Block *unused[LARGEST + 1];

static void *ORT_API_CALL pool_take(OrtAllocator *pool, size_t bytes) {
  (void)pool;
  int power = SMALLEST;
  while (power < LARGEST && (size_t)1 << power < bytes) power++;
  if (!bytes || (size_t)1 << power < bytes) return NULL;
  Block *block = unused[power];
  if (block) {
    unused[power] = block->of.next;
  } else {
    void *made;
    if (posix_memalign(&made, LINE, sizeof(Block) + ((size_t)1 << power))) return NULL;
    block = made;
    block->of.power = power;
  }
  return block + 1;
}

static void ORT_API_CALL pool_give(OrtAllocator *pool, void *given) {
  (void)pool;
  if (!given) return;
  Block *block = (Block *)given - 1;
  block->of.next = unused[block->of.power];
  unused[block->of.power] = block;
}

static const OrtMemoryInfo *ORT_API_CALL pool_info(const OrtAllocator *pool) {
  (void)pool;
  return memory;
}

static OrtAllocator pool = {
    .version = ORT_API_VERSION, .Alloc = pool_take, .Free = pool_give, .Info = pool_info, .Reserve = pool_take};

typedef struct {
  OrtSession *session;
  char *input, *output; // names
  OrtValue *read, *written;
  float *logits;
  size_t classes;
} Model;

// A tensor as a model declares it, in memory that it stays in.
static OrtValue *make_tensor(OrtTypeInfo *type, float **values, size_t *count) {
  const OrtTensorTypeAndShapeInfo *declared;
  ONNXTensorElementDataType of;
  size_t axes;
  OrtValue *tensor;
  check(ort->CastTypeInfoToTensorInfo(type, &declared));
  if (!declared) fail("a model", "not of tensors");
  check(ort->GetTensorElementType(declared, &of));
  if (of != ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT) fail("a model", "its input or output is not float32");
  check(ort->GetDimensionsCount(declared, &axes));
  int64_t *shape = zeros(axes, sizeof *shape);
  check(ort->GetDimensions(declared, shape, axes));
  *count = 1;
  for (size_t axis = 0; axis < axes; axis++) {
    if (shape[axis] < 0) shape[axis] = 1;
    *count *= (size_t)shape[axis];
  }
  *values = zeros(*count, sizeof **values);
  check(ort->CreateTensorWithDataAsOrtValue(memory, *values, *count * sizeof **values, shape, axes, of, &tensor));
  free(shape);
  ort->ReleaseTypeInfo(type);
  return tensor;
}

static Model open_model(OrtEnv *environment, const char *kind, const char *path, const float *given, size_t givens) {
  OrtSessionOptions *options;
  OrtAllocator *names;
  OrtTypeInfo *type;
  Model model;
  float *values;
  size_t count;
  check(ort->CreateSessionOptions(&options));
  check(ort->SetIntraOpNumThreads(options, 1));
  if (strcmp(kind, "arena")) check(ort->DisableCpuMemArena(options));
  if (!strcmp(kind, "pool")) check(ort->AddSessionConfigEntry(options, "session.use_env_allocators", "1"));
  else if (strcmp(kind, "arena") && strcmp(kind, "heap")) fail(kind, "neither arena nor heap nor pool");
  check(ort->CreateSession(environment, path, options, &model.session));
  ort->ReleaseSessionOptions(options);
  check(ort->GetAllocatorWithDefaultOptions(&names));
  check(ort->SessionGetInputName(model.session, 0, names, &model.input));
  check(ort->SessionGetOutputName(model.session, 0, names, &model.output));
  check(ort->SessionGetInputTypeInfo(model.session, 0, &type));
  model.read = make_tensor(type, &values, &count);
  for (size_t i = 0; i < count; i++) values[i] = given[i % givens];
  check(ort->SessionGetOutputTypeInfo(model.session, 0, &type));
  model.written = make_tensor(type, &model.logits, &model.classes);
  return model;
}

static void call(Model *model) {
  check(ort->Run(model->session, NULL, (const char *const *)&model->input, (const OrtValue *const *)&model->read, 1,
                 (const char *const *)&model->output, 1, &model->written));
}

static int64_t now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

int main(int count, char **arguments) {
  enum { MOST = 1 << 16 };
  if (count < 4 || count % 2) fail("usage", "latency VALUES [arena|heap|pool MODEL] ...");
  float given[1024];
  FILE *file = fopen(arguments[1], "rb");
  size_t givens = file ? fread(given, sizeof *given, sizeof given / sizeof *given, file) : 0;
  if (!givens) fail(arguments[1], "cannot be read, or is empty");
  fclose(file);

  ort = OrtGetApiBase()->GetApi(ORT_API_VERSION);
  if (!ort) fail("ONNX Runtime", "older than its header");
  OrtEnv *environment;
  check(ort->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "latency", &environment));
  check(ort->CreateCpuMemoryInfo(OrtDeviceAllocator, OrtMemTypeDefault, &memory));
  check(ort->RegisterAllocator(environment, &pool));

  size_t models = (size_t)(count - 2) / 2;
  Model *opened = zeros(models, sizeof *opened);
  int64_t *nanoseconds = zeros(MOST, sizeof *nanoseconds);
  for (size_t place = 0; place < models; place++) {
    Model *model = &opened[place];
    *model = open_model(environment, arguments[2 + 2 * place], arguments[3 + 2 * place], given, givens);
    call(model);
    for (size_t i = 0; i < model->classes; i++) printf(i ? " %.9g" : "%.9g", (double)model->logits[i]);
    printf("\n");
  }
  fflush(stdout);

  size_t place;
  int64_t turn;
  while (scanf("%zu %" SCNd64, &place, &turn) == 2) {
    if (place >= models) fail("standard input", "no model in that place");
    size_t calls = 0;
    int64_t start = now(), stop = start + turn;
    do {
      call(&opened[place]);
      int64_t end = now();
      nanoseconds[calls++] = end - start;
      start = end;
    } while (start < stop && calls < MOST);
    for (size_t i = 0; i < calls; i++) printf(i ? " %" PRId64 : "%" PRId64, nanoseconds[i]);
    printf("\n");
    fflush(stdout);
  }
  return 0;
}
