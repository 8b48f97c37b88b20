// torch tensors as views of their memory, by their attributes: nothing of PyTorch is linked.
#pragma once
#include <pybind11/pybind11.h>

#include <string>

#include "tensor.h"

namespace swiftnet {
namespace python {

namespace py = pybind11;

// Interned names and PyTorch's own objects, looked up once; they live as long as the process.
struct Torch {
  PyObject *tensor_type, *float32, *float16, *bfloat16, *uint8;
  PyObject *data_ptr, *dtype, *shape, *stride, *device, *type, *index;

  static const Torch& instance() {
    static const Torch torch;
    return torch;
  }

 private:
  Torch() {
    const py::module_ torch = py::module_::import("torch");
    tensor_type = torch.attr("Tensor").cast<py::object>().release().ptr();
    float32 = torch.attr("float32").cast<py::object>().release().ptr();
    float16 = torch.attr("float16").cast<py::object>().release().ptr();
    bfloat16 = torch.attr("bfloat16").cast<py::object>().release().ptr();
    uint8 = torch.attr("uint8").cast<py::object>().release().ptr();
    data_ptr = PyUnicode_InternFromString("data_ptr");
    dtype = PyUnicode_InternFromString("dtype");
    shape = PyUnicode_InternFromString("shape");
    stride = PyUnicode_InternFromString("stride");
    device = PyUnicode_InternFromString("device");
    type = PyUnicode_InternFromString("type");
    index = PyUnicode_InternFromString("index");
  }
};

inline py::object attribute(PyObject* object, PyObject* name) {
  PyObject* value = PyObject_GetAttr(object, name);
  if (value == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(value);
}

inline py::object call(PyObject* object, PyObject* name) {
  PyObject* value = PyObject_CallMethodObjArgs(object, name, nullptr);
  if (value == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(value);
}

inline int64_t integer(PyObject* object) {
  const long long value = PyLong_AsLongLong(object);
  if (value == -1 && PyErr_Occurred()) throw py::error_already_set();
  return value;
}

inline DType dtype_of(PyObject* tensor, const Torch& torch) {
  const py::object dtype = attribute(tensor, torch.dtype);
  if (dtype.ptr() == torch.float32) return DType::kFloat32;
  if (dtype.ptr() == torch.float16) return DType::kFloat16;
  if (dtype.ptr() == torch.bfloat16) return DType::kBFloat16;
  if (dtype.ptr() == torch.uint8) return DType::kUInt8;
  throw py::type_error("the kernels take float32, float16, bfloat16 and uint8 tensors, not " +
                       std::string(py::str(dtype)));
}

inline int device_of(PyObject* tensor, const Torch& torch) {
  const py::object device = attribute(tensor, torch.device), type = attribute(device.ptr(), torch.type);
  if (PyUnicode_CompareWithASCIIString(type.ptr(), "cpu") == 0) return -1;
  if (PyUnicode_CompareWithASCIIString(type.ptr(), "cuda") != 0)
    throw py::type_error("the kernels take CPU and CUDA tensors, not " + std::string(py::str(device)));
  return static_cast<int>(integer(attribute(device.ptr(), torch.index).ptr()));
}

inline TensorView view_of(PyObject* tensor, const Torch& torch) {
  TensorView view;
  view.dtype = dtype_of(tensor, torch);
  view.device = device_of(tensor, torch);
  // a sparse tensor has no strides: PyTorch's own error says so
  const py::object shape = attribute(tensor, torch.shape), stride = call(tensor, torch.stride);
  view.ndim = static_cast<int>(PyTuple_GET_SIZE(shape.ptr()));
  if (view.ndim > TensorView::kMaxDims) throw py::value_error("the kernels take tensors of up to 4 dimensions");
  for (int i = 0; i < view.ndim; i++) {
    view.shape[i] = integer(PyTuple_GET_ITEM(shape.ptr(), i));
    view.strides[i] = integer(PyTuple_GET_ITEM(stride.ptr(), i));
  }
  view.data = reinterpret_cast<void*>(static_cast<intptr_t>(integer(call(tensor, torch.data_ptr).ptr())));
  return view;
}

}  // namespace python
}  // namespace swiftnet

namespace pybind11 {
namespace detail {

// A torch.Tensor as a view of its memory, None as an absent one; anything else is not taken.
template <>
struct type_caster<swiftnet::TensorView> {
  PYBIND11_TYPE_CASTER(swiftnet::TensorView, const_name("torch.Tensor"));

  bool load(handle source, bool) {
    if (source.is_none()) return true;
    const swiftnet::python::Torch& torch = swiftnet::python::Torch::instance();
    if (!PyObject_TypeCheck(source.ptr(), reinterpret_cast<PyTypeObject*>(torch.tensor_type))) return false;
    value = swiftnet::python::view_of(source.ptr(), torch);
    return true;
  }
};

}  // namespace detail
}  // namespace pybind11
