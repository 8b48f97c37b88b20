#pragma once
#include <pybind11/pybind11.h>

// `_C.cpu`: the native CPU kernels.
void define_cpu(pybind11::module_& m);
