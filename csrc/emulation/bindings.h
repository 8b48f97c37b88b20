#pragma once
#include <pybind11/pybind11.h>

// `_C_emulated.emulation`: options, launch records and probes for the tests.
void define_emulation(pybind11::module_& m);
