// The sanitizers' reports become the running launch's findings, so that a launch raises instead of ending the process.
// Linked into the sanitize build only, with -fsanitize-recover=all; needs ASAN_OPTIONS=halt_on_error=0.
#include <sanitizer/asan_interface.h>

#include "emulation.h"

extern "C" {

void __ubsan_get_current_report_data(const char** kind, const char** message, const char** file, unsigned* line,
                                     unsigned* column, char** address);

// UndefinedBehaviorSanitizer calls this after each report; libubsan is linked statically, so it calls ours.
void __ubsan_on_report() {
  const char *kind, *message, *file;
  unsigned line, column;
  char* address;
  __ubsan_get_current_report_data(&kind, &message, &file, &line, &column, &address);
  swiftnet::emulation::report(std::string("undefined behaviour: ") + message + " at " + file + ":" +
                              std::to_string(line));
}
}

namespace {

// Of AddressSanitizer's page of text the first lines: what, where, and the calls that led there.
void on_address_error(const char* report) {
  std::string text = report;
  const size_t start = text.find("ERROR: ");
  if (start != std::string::npos) text = text.substr(start + 7);
  size_t end = 0;
  for (int lines = 0; lines < 8 && end != std::string::npos; lines++) end = text.find('\n', end + 1);
  swiftnet::emulation::report(text.substr(0, end));
}

const bool kInstalled = (__asan_set_error_report_callback(on_address_error), true);

}  // namespace
