#include "cpu/bindings.h"

#include <pybind11/stl.h>

#include <string>
#include <vector>

#include "cpu/kernels.h"
#include "cpu/levels.h"
#include "cpu/ops.h"
#include "cpu/parallel.h"
#include "torch_tensor.h"

namespace py = pybind11;
using namespace swiftnet::cpu;
using swiftnet::DType;
using swiftnet::TensorView;

namespace {

DType dtype_named(const std::string& name) {
  if (name == "float32") return DType::kFloat32;
  if (name == "bfloat16") return DType::kBFloat16;
  throw py::value_error("dtype: expected float32 or bfloat16, got " + name);
}

void define_maps(py::module_& m) {
  m.def("image_to_map",
        [](const TensorView& image, const std::vector<float>& mean, const TensorView& out, int threads) {
          const py::gil_scoped_release unlocked;
          image_to_map(image, mean, out, threads);
        });
  m.def("max_pool3x3", [](const TensorView& x, const TensorView& out, int threads) {
    const py::gil_scoped_release unlocked;
    max_pool3x3(x, out, threads);
  });
  m.def("depthwise3x3", [](const TensorView& x, const TensorView& weight, const TensorView& bias, int stride,
                           const std::string& activation, const TensorView& out, int threads) {
    const py::gil_scoped_release unlocked;
    depthwise3x3(x, weight, bias, stride, activation, out, threads);
  });
  m.def("upsample_add", [](const TensorView& x, const TensorView& skip, const TensorView& scale,
                           const TensorView& shift, bool relu, bool nearest, const TensorView& out, int threads) {
    const py::gil_scoped_release unlocked;
    upsample_add(x, skip, scale, shift, relu, nearest, out, threads);
  });
  m.def("resize", [](const TensorView& x, bool nearest, const TensorView& out, int threads) {
    const py::gil_scoped_release unlocked;
    resize(x, nearest, out, threads);
  });
}

void define_pyramid_pool(py::module_& m) {
  m.def("spatial_pyramid_pool_workspace", [](const TensorView& x, const TensorView& level_weight,
                                             const std::vector<int64_t>& sizes, const TensorView& out, int threads) {
    return spatial_pyramid_pool_workspace({x, level_weight, {}, {}, {}, {}, {}, {}, sizes, false, out, threads});
  });
  m.def("spatial_pyramid_pool",
        [](const TensorView& x, const TensorView& level_weight, const TensorView& fuse_weight,
           const TensorView& fuse_bias, const TensorView& level_scale, const TensorView& level_shift,
           const TensorView& fuse_scale, const TensorView& fuse_shift, const std::vector<int64_t>& sizes, bool nearest,
           const TensorView& workspace, const TensorView& out, int threads) {
          const py::gil_scoped_release unlocked;
          spatial_pyramid_pool({x, level_weight, fuse_weight, fuse_bias, level_scale, level_shift, fuse_scale,
                                fuse_shift, sizes, nearest, out, threads},
                               workspace);
        });
}

}  // namespace

void define_cpu(py::module_& module) {
  py::module_ m = module.def_submodule("cpu", "The native CPU kernels.");
  m.def("levels", &levels,
        "The instruction sets that this CPU runs and the kernels were compiled for, the best first.");
  m.def("level", [] { return kernels().level; }, "The one of levels() in use.");
  m.def("use_level", &use_level, "Chooses another of levels(), for tests.");
  m.def("thread_pool", &thread_pool, "The file of PyTorch's OpenMP run time, or nothing.");
  m.def("packed_bytes", [](const std::string& dtype, int tile, int64_t outputs, int64_t channels, int kernel) {
    return packed_bytes(dtype_named(dtype), tile, outputs, channels, kernel);
  });
  m.def("pack_conv2d", [](const TensorView& weight, const std::string& dtype, int tile, const TensorView& packed) {
    const DType of_maps = dtype_named(dtype);
    const py::gil_scoped_release unlocked;
    pack_conv2d(weight, of_maps, tile, packed);
  });
  m.def("conv2d_workspace", [](const TensorView& x, const TensorView& out_or_tap, int kernel, int stride, int padding,
                               int tile, int threads) {
    return conv2d_workspace(x, out_or_tap, Convolution{kernel, stride, padding, tile, "none"}, threads);
  });
  m.def("conv2d",
        [](const TensorView& x, const TensorView& packed, int kernel, int stride, int padding, int tile,
           const std::string& activation, const TensorView& bias, const TensorView& residual, const TensorView& up,
           bool nearest, const TensorView& out, const TensorView& tap, const TensorView& tap_scale,
           const TensorView& tap_shift, bool tap_relu, const TensorView& workspace, int threads) {
          const py::gil_scoped_release unlocked;
          conv2d(x, packed, Convolution{kernel, stride, padding, tile, activation}, bias, residual, up, nearest, out,
                 tap, tap_scale, tap_shift, tap_relu, workspace, threads);
        });
  m.def("inverted_residual_workspace", &inverted_residual_workspace);
  m.def("inverted_residual",
        [](const TensorView& x, const TensorView& expand, const TensorView& expand_bias, const TensorView& depthwise,
           const TensorView& depthwise_bias, int stride, const std::string& activation, const TensorView& project,
           const TensorView& project_bias, const std::string& project_activation, const TensorView& residual,
           const TensorView& out, const TensorView& tap, const TensorView& tap_scale, const TensorView& tap_shift,
           bool tap_relu, const TensorView& workspace, int threads) {
          const py::gil_scoped_release unlocked;
          inverted_residual(
              {x, expand, expand_bias, depthwise, depthwise_bias, stride, activation, project, project_bias,
               project_activation, residual, out, tap, tap_scale, tap_shift, tap_relu, threads},
              workspace);
        });
  define_maps(m);
  define_pyramid_pool(m);
  m.def("multiscale_mean_workspace", &multiscale_mean_workspace);
  m.def("multiscale_mean", [](const std::vector<TensorView>& logits, const std::string& order, const TensorView& out,
                              const TensorView& workspace, int threads) {
    const py::gil_scoped_release unlocked;
    multiscale_mean(logits, order, out, workspace, threads);
  });
}
