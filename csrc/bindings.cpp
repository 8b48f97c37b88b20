// The Python module. It takes torch tensors by their attributes (torch_tensor.h), so it neither needs nor links
// PyTorch, and one binary works with every version of it.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <stdexcept>
#include <string>

#include "build_config.h"
#include "ops.h"
#include "torch_tensor.h"
#ifdef SWIFTNET_EMULATED
#include "emulation/bindings.h"
#endif
#ifdef SWIFTNET_WITH_CPU_KERNELS
#include "cpu/bindings.h"
#endif

namespace py = pybind11;
using swiftnet::TensorView;

namespace {

#if defined(SWIFTNET_WITH_CUDA) || defined(SWIFTNET_EMULATED)

swiftnet::Resize resize_mode(const std::string& mode) {
  if (mode == "bilinear") return swiftnet::Resize::kBilinear;
  if (mode == "nearest") return swiftnet::Resize::kNearest;
  throw py::value_error("mode: expected 'bilinear' or 'nearest', got '" + mode + "'");
}

swiftnet::Order softmax_order(const std::string& order) {
  if (order == "softmax_then_resize") return swiftnet::Order::kSoftmaxThenResize;
  if (order == "resize_then_softmax") return swiftnet::Order::kResizeThenSoftmax;
  throw py::value_error("order: expected 'softmax_then_resize' or 'resize_then_softmax', got '" + order + "'");
}

swiftnet::ConvAlgorithm conv_algorithm(const std::string& algorithm) {
  if (algorithm == "direct") return swiftnet::ConvAlgorithm::kDirect;
  if (algorithm == "winograd") return swiftnet::ConvAlgorithm::kWinograd;
  if (algorithm == "half2") return swiftnet::ConvAlgorithm::kHalf2;
  if (algorithm == "tensor_cores") return swiftnet::ConvAlgorithm::kTensorCores;
  throw py::value_error("algorithm: expected 'direct', 'winograd', 'half2' or 'tensor_cores', got '" + algorithm + "'");
}

std::vector<std::pair<int, int>> grid_pairs(const std::vector<int>& sizes) {
  if (sizes.size() % 2) throw py::value_error("sizes: expected rows and columns of each grid, one after the other");
  std::vector<std::pair<int, int>> grids;
  for (size_t i = 0; i < sizes.size(); i += 2) grids.emplace_back(sizes[i], sizes[i + 1]);
  return grids;
}

swiftnet::Stream stream_of(uintptr_t address) { return reinterpret_cast<swiftnet::Stream>(address); }

void define_operators(py::module_& m) {
  m.def("conv3x3_packed_numel", [](const std::string& algorithm, int64_t outputs, int64_t channels) {
    return swiftnet::conv3x3_packed_numel(conv_algorithm(algorithm), outputs, channels);
  });
  m.def("conv3x3", [](const TensorView& x, const TensorView& weight, const std::string& algorithm,
                      const TensorView& packed, bool pack, const TensorView& bias, const TensorView& residual,
                      bool relu, const TensorView& sum, const TensorView& out, uintptr_t stream) {
    const swiftnet::ConvAlgorithm chosen = conv_algorithm(algorithm);
    const py::gil_scoped_release unlocked;
    swiftnet::conv3x3(x, weight, chosen, packed, pack, bias, residual, relu, sum, out, stream_of(stream));
  });
  m.def(
      "upsample_add_conv3x3",
      [](const TensorView& x, const TensorView& skip, const TensorView& weight, const std::string& algorithm,
         const TensorView& packed, bool pack, const TensorView& bias, const TensorView& scale, const TensorView& shift,
         const std::string& mode, const TensorView& activated, const TensorView& out, uintptr_t stream) {
        const swiftnet::ConvAlgorithm chosen = conv_algorithm(algorithm);
        const swiftnet::Resize resize = resize_mode(mode);
        const py::gil_scoped_release unlocked;
        swiftnet::upsample_add_conv3x3(x, skip, weight, chosen, packed, pack, bias, scale, shift, resize, activated,
                                       out, stream_of(stream));
      });
  m.def("conv3x3_head",
        [](const TensorView& x, const TensorView& weight, const std::string& algorithm, const TensorView& packed,
           bool pack, const TensorView& bias, const TensorView& scale, const TensorView& shift,
           const TensorView& head_weight, const TensorView& head_bias, const TensorView& out, uintptr_t stream) {
          const swiftnet::ConvAlgorithm chosen = conv_algorithm(algorithm);
          const py::gil_scoped_release unlocked;
          swiftnet::conv3x3_head(x, weight, chosen, packed, pack, bias, scale, shift, head_weight, head_bias, out,
                                 stream_of(stream));
        });
  m.def("upsample_blend",
        [](const TensorView& tap, const TensorView& lateral_weight, const TensorView& x, const TensorView& weight,
           const TensorView& packed, bool pack, const TensorView& lateral_bias, const TensorView& scale,
           const TensorView& shift, const TensorView& out_scale, const TensorView& out_shift, const TensorView& bias,
           const TensorView& head_weight, const TensorView& head_bias, const TensorView& head_scale,
           const TensorView& head_shift, const std::string& mode, const TensorView& out, uintptr_t stream) {
          const swiftnet::Resize resize = resize_mode(mode);
          const py::gil_scoped_release unlocked;
          swiftnet::upsample_blend(tap, lateral_weight, x, weight, packed, pack, lateral_bias, scale, shift, out_scale,
                                   out_shift, bias, head_weight, head_bias, head_scale, head_shift, resize, out,
                                   stream_of(stream));
        });
  m.def("why_not_upsample_blend", &swiftnet::why_not_upsample_blend,
        "Empty if one launch makes such a block, else why not.");
  m.def("upsample_blend_pays", &swiftnet::upsample_blend_pays,
        "Whether a block of threads makes all outputs of such a block.");
  m.def("lateral_add",
        [](const TensorView& tap, const TensorView& weight, const TensorView& x, const TensorView& bias,
           const TensorView& scale, const TensorView& shift, const TensorView& out_scale, const TensorView& out_shift,
           bool relu, const std::string& mode, const TensorView& out, uintptr_t stream) {
          const swiftnet::Resize resize = resize_mode(mode);
          const py::gil_scoped_release unlocked;
          swiftnet::lateral_add(tap, weight, x, bias, scale, shift, out_scale, out_shift, relu, resize, out,
                                stream_of(stream));
        });
  m.def("spatial_pyramid_pool",
        [](const TensorView& x, const TensorView& level_weight, const TensorView& fuse_weight,
           const TensorView& fuse_bias, const TensorView& level_scale, const TensorView& level_shift,
           const TensorView& fuse_scale, const TensorView& fuse_shift, const std::vector<int>& sizes,
           const std::string& mode, const TensorView& workspace, const TensorView& out, uintptr_t stream) {
          const swiftnet::Resize resize = resize_mode(mode);
          const auto grids = grid_pairs(sizes);
          const py::gil_scoped_release unlocked;
          swiftnet::spatial_pyramid_pool(x, level_weight, fuse_weight, fuse_bias, level_scale, level_shift, fuse_scale,
                                         fuse_shift, grids, resize, workspace, out, stream_of(stream));
        });
  m.def("multiscale_mean",
        [](const std::vector<TensorView>& logits, const std::string& order, const TensorView& out, uintptr_t stream) {
          const swiftnet::Order softmax = softmax_order(order);
          const py::gil_scoped_release unlocked;
          swiftnet::multiscale_mean(logits, softmax, out, stream_of(stream));
        });
  m.def("why_not_multiscale_mean", &swiftnet::why_not_multiscale_mean,
        "Empty if the kernel makes height × width of these maps, else the reason why not.");
  m.def("why_not_on_device", &swiftnet::why_not_on_device,
        "Empty if the kernels run on the CUDA device of this index, else the reason why not.");
  m.def("kernel_architecture", &swiftnet::kernel_architecture,
        "The architecture that the kernels which run on the CUDA device of this index were compiled for, e.g. 61.");
}

#else

void define_operators(py::module_&) {}

#endif

}  // namespace

PYBIND11_MODULE(SWIFTNET_MODULE_NAME, m) {
  m.doc() = "The compiled part of swiftnet_ext; use swiftnet_ext.ops.";
  define_operators(m);
#ifdef SWIFTNET_EMULATED
  define_emulation(m);
#endif
#ifdef SWIFTNET_WITH_CPU_KERNELS
  define_cpu(m);
#endif
  m.def(
      "build_info",
      [] {
        py::dict info;
        info["cuda_version"] = SWIFTNET_CUDA_VERSION;
        info["cuda_archs"] = SWIFTNET_CUDA_ARCHS;
        info["no_cuda_reason"] = SWIFTNET_NO_CUDA_REASON;
        return info;
      },
      "What the module was built with: CUDA toolkit and architectures, or why there are no kernels.");
}
