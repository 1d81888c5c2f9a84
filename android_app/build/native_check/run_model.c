/* Runs a model once through TFLite's C API with XNNPACK: LIBRARY MODEL INPUT OUTPUT, raw bytes. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

#define FUNCTION(result, name, ...)                          \
  result (*name)(__VA_ARGS__) = dlsym(library, #name);       \
  if (!name) {                                               \
    fprintf(stderr, "The library has no %s.\n", #name);      \
    return 1;                                                \
  }

static void *checked(void *value, const char *what) {
  if (!value) {
    fprintf(stderr, "%s failed.\n", what);
    exit(1);
  }
  return value;
}

int main(int count, char **arguments) {
  if (count != 5) return 2;
  void *library = dlopen(arguments[1], RTLD_NOW | RTLD_GLOBAL);
  if (!library) {
    fprintf(stderr, "%s\n", dlerror());
    return 1;
  }
  FUNCTION(const char *, TfLiteVersion, void)
  FUNCTION(void *, TfLiteModelCreateFromFile, const char *)
  FUNCTION(void *, TfLiteInterpreterOptionsCreate, void)
  FUNCTION(void, TfLiteInterpreterOptionsAddDelegate, void *, void *)
  FUNCTION(void *, TfLiteXNNPackDelegateCreate, const void *)
  FUNCTION(void *, TfLiteInterpreterCreate, void *, void *)
  FUNCTION(int, TfLiteInterpreterAllocateTensors, void *)
  FUNCTION(void *, TfLiteInterpreterGetInputTensor, void *, int)
  FUNCTION(const void *, TfLiteInterpreterGetOutputTensor, void *, int)
  FUNCTION(int, TfLiteInterpreterInvoke, void *)
  FUNCTION(size_t, TfLiteTensorByteSize, const void *)
  FUNCTION(int, TfLiteTensorCopyFromBuffer, void *, const void *, size_t)
  FUNCTION(int, TfLiteTensorCopyToBuffer, const void *, void *, size_t)

  void *model = checked(TfLiteModelCreateFromFile(arguments[2]), "Loading the model");
  void *options = TfLiteInterpreterOptionsCreate();
  void *delegate = checked(TfLiteXNNPackDelegateCreate(NULL), "Creating XNNPACK");
  TfLiteInterpreterOptionsAddDelegate(options, delegate);
  void *interpreter = checked(TfLiteInterpreterCreate(model, options), "Creating an interpreter");
  if (TfLiteInterpreterAllocateTensors(interpreter)) return 1;

  void *input = TfLiteInterpreterGetInputTensor(interpreter, 0);
  const size_t input_size = TfLiteTensorByteSize(input);
  void *data = checked(malloc(input_size), "Allocating the input");
  FILE *file = checked(fopen(arguments[3], "rb"), "Opening the input");
  if (fread(data, 1, input_size, file) != input_size) return 1;
  fclose(file);
  if (TfLiteTensorCopyFromBuffer(input, data, input_size)) return 1;
  if (TfLiteInterpreterInvoke(interpreter)) return 1;

  const void *output = TfLiteInterpreterGetOutputTensor(interpreter, 0);
  const size_t output_size = TfLiteTensorByteSize(output);
  void *result = checked(malloc(output_size), "Allocating the output");
  if (TfLiteTensorCopyToBuffer(output, result, output_size)) return 1;
  file = checked(fopen(arguments[4], "wb"), "Opening the output");
  if (fwrite(result, 1, output_size, file) != output_size) return 1;
  fclose(file);
  printf("%s\n", TfLiteVersion());
  return 0;
}
