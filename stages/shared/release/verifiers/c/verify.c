// Checks the ONNX and ORT files of a release bundle on ONNX Runtime's C API: ./verify [FOLDER]
//
// Each must give the logits of the golden vectors within its tolerance. Exit code: 0 right, 1 wrong, 2 nothing could be
// checked. How an app calls the model stands in `classify`.

#include <cjson/cJSON.h>
#include <math.h>
#include <onnxruntime_c_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const OrtApi *ort;
static OrtMemoryInfo *memory;

_Noreturn static void fail(const char *what, const char *why) {
  fprintf(stderr, "verify: error: %s: %s\n", what, why);
  exit(2);
}

static void check(OrtStatus *status) {
  if (status) fail("ONNX Runtime", ort->GetErrorMessage(status));
}

typedef struct {
  const char *input, *lengths, *output; // names; lengths is NULL if all sequences are equally long
  size_t features, classes;
} Signature;

// Logits of one sequence: `steps` rows of as many values as there are features, of which the first `length` rows count.
static void classify(OrtSession *session, Signature model, float *sequence, size_t steps, int32_t length, float *logits) {
  const int64_t shape[] = {1, (int64_t)steps, (int64_t)model.features}, one[] = {1};
  OrtValue *inputs[2] = {NULL, NULL}, *output = NULL;
  check(ort->CreateTensorWithDataAsOrtValue(memory, sequence, steps * model.features * sizeof *sequence, shape, 3,
                                            ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, &inputs[0]));
  check(ort->CreateTensorWithDataAsOrtValue(memory, &length, sizeof length, one, 1, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32,
                                            &inputs[1]));
  check(ort->Run(session, NULL, (const char *[]){model.input, model.lengths}, (const OrtValue *const *)inputs,
                 model.lengths ? 2 : 1, (const char *[]){model.output}, 1, &output));
  OrtTensorTypeAndShapeInfo *info;
  size_t count;
  void *values;
  check(ort->GetTensorTypeAndShape(output, &info));
  check(ort->GetTensorShapeElementCount(info, &count));
  if (count != model.classes) fail(model.output, "not one logit for each class");
  check(ort->GetTensorMutableData(output, &values));
  memcpy(logits, values, count * sizeof *logits);
  ort->ReleaseTensorTypeAndShapeInfo(info);
  ort->ReleaseValue(output);
  ort->ReleaseValue(inputs[1]);
  ort->ReleaseValue(inputs[0]);
}

static char *path_to(const char *folder, const char *name) {
  char *path = malloc(strlen(folder) + strlen(name) + 2);
  if (!path) fail(name, "out of memory");
  sprintf(path, "%s/%s", folder, name);
  return path;
}

static cJSON *read_json(const char *folder, const char *name) {
  char *path = path_to(folder, name), *text = NULL;
  FILE *file = fopen(path, "rb");
  long size = file && !fseek(file, 0, SEEK_END) ? ftell(file) : -1;
  if (size >= 0) text = malloc((size_t)size + 1);
  if (!text || fseek(file, 0, SEEK_SET) || fread(text, 1, (size_t)size, file) != (size_t)size) fail(path, "cannot be read");
  cJSON *content = cJSON_ParseWithLength(text, (size_t)size);
  if (!content) fail(path, "not valid JSON");
  fclose(file);
  free(text);
  free(path);
  return content;
}

static const cJSON *get(const cJSON *object, const char *key) {
  const cJSON *value = cJSON_GetObjectItemCaseSensitive(object, key);
  if (!value) fail(key, "not in the bundle");
  return value;
}

static const char *name_of(const cJSON *tensors, int place) {
  return cJSON_GetStringValue(get(cJSON_GetArrayItem(tensors, place), "name"));
}

// Writes an array of numbers, or of arrays of them, one after the other; says how many there were.
static size_t numbers(const cJSON *values, float *found, size_t most) {
  size_t count = 0;
  const cJSON *value;
  cJSON_ArrayForEach(value, values) {
    if (cJSON_IsArray(value)) count += numbers(value, found + count, most - count);
    else if (cJSON_IsNumber(value) && count < most) found[count++] = (float)value->valuedouble;
    else fail("golden.json", "not an array of numbers, each as long as the others");
  }
  return count;
}

// The largest difference from the golden logits, as a share of the largest of them: once NaN, it stays NaN.
static double largest_error(OrtSession *session, Signature model, const cJSON *vectors, const char *name) {
  double worst = 0, scale = 0;
  const cJSON *vector;
  cJSON_ArrayForEach(vector, vectors) {
    const cJSON *rows = get(vector, "sequence");
    size_t steps = (size_t)cJSON_GetArraySize(rows);
    float *sequence = calloc(steps * model.features, sizeof *sequence);
    float *logits = calloc(2 * model.classes, sizeof *logits), *expected = logits + model.classes;
    if (!sequence || !logits) fail(name, "out of memory");
    if (numbers(rows, sequence, steps * model.features) != steps * model.features ||
        numbers(get(get(vector, "logits"), name), expected, model.classes) != model.classes)
      fail("golden.json", "a vector of another shape than signature.json says");
    classify(session, model, sequence, steps, (int32_t)get(vector, "length")->valueint, logits);
    for (size_t i = 0; i < model.classes; i++) {
      double error = fabs((double)logits[i] - expected[i]);
      if (isnan(error) || error > worst) worst = error;
      if (fabs((double)expected[i]) > scale) scale = fabs((double)expected[i]);
    }
    free(logits);
    free(sequence);
  }
  return scale > 0 ? worst / scale : worst;
}

int main(int count, char **arguments) {
  const char *folder = count > 1 ? arguments[1] : ".";
  cJSON *release = read_json(folder, "release.json"), *signatures = read_json(folder, "signature.json");
  cJSON *golden = read_json(folder, "golden.json"), *labels = read_json(folder, "labels.json");
  ort = OrtGetApiBase()->GetApi(ORT_API_VERSION);
  if (!ort) fail("ONNX Runtime", "older than its header");
  OrtEnv *environment;
  OrtSessionOptions *options;
  check(ort->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "verify", &environment));
  check(ort->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory));
  check(ort->CreateSessionOptions(&options));
  check(ort->SetIntraOpNumThreads(options, 1)); // logits of int8 files depend on the number of threads
  check(ort->DisableCpuMemArena(options));      // faster for one sequence at a time

  int checked = 0, wrong = 0;
  const cJSON *model, *vectors = get(golden, "vectors");
  cJSON_ArrayForEach(model, get(release, "models")) {
    const char *name = model->string, *suffix = strrchr(name, '.');
    if (!suffix || (strcmp(suffix, ".onnx") && strcmp(suffix, ".ort"))) continue;
    const cJSON *signature = get(signatures, name), *inputs = get(signature, "inputs");
    const cJSON *features = get(cJSON_GetArrayItem(inputs, 0), "features");
    Signature called = {name_of(inputs, 0), cJSON_GetArraySize(inputs) > 1 ? name_of(inputs, 1) : NULL,
                        name_of(get(signature, "outputs"), 0), (size_t)cJSON_GetArraySize(features),
                        (size_t)cJSON_GetArraySize(labels)};
    char *path = path_to(folder, name);
    OrtSession *session;
    check(ort->CreateSession(environment, path, options, &session));
    double error = largest_error(session, called, vectors, name), tolerance = get(model, "tolerance")->valuedouble;
    int right = error <= tolerance;
    printf("%s  %s: error %.1e, allowed %.0e, %d vectors\n", name, right ? "right" : "WRONG", error, tolerance,
           cJSON_GetArraySize(vectors));
    checked++;
    wrong += !right;
    ort->ReleaseSession(session);
    free(path);
  }
  if (!checked) fail(folder, "no ONNX file in it");
  return wrong ? 1 : 0;
}
