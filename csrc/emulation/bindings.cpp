#include "bindings.h"

#include <pybind11/stl.h>

#include "emulation.h"
#include "probes.h"

namespace py = pybind11;
using namespace swiftnet::emulation;

#ifdef SWIFTNET_EMULATION_COVERAGE
extern "C" void __gcov_dump();
#endif

namespace {

py::dict as_dict(const LaunchRecord& record) {
  py::dict d;
  d["kernel"] = record.kernel;
  d["blocks"] = record.blocks;
  d["threads"] = record.threads;
  d["barriers"] = record.barriers;
  d["sectors_read"] = record.read.requested;
  d["distinct_sectors_read"] = record.read.distinct;
  d["sectors_written"] = record.written.requested;
  d["distinct_sectors_written"] = record.written.distinct;
  return d;
}

}  // namespace

void define_emulation(py::module_& module) {
  py::module_ m = module.def_submodule("emulation", "How the emulation runs launches, and what it saw.");
  m.attr("check") = SWIFTNET_EMULATION_CHECK;

  py::enum_<ThreadOrder>(m, "ThreadOrder")
      .value("forward", ThreadOrder::kForward)
      .value("reverse", ThreadOrder::kReverse)
      .value("random", ThreadOrder::kRandom);
  py::class_<Options>(m, "Options")
      .def_readwrite("order", &Options::order)
      .def_readwrite("seed", &Options::seed)
      .def_readwrite("first_blocks", &Options::first_blocks)
      .def_readwrite("last_blocks", &Options::last_blocks)
      .def_readwrite("count_sectors", &Options::count_sectors)
      .def("reset", [](Options& o) { o = Options(); });
  m.attr("options") = py::cast(&options(), py::return_value_policy::reference);

  m.def("take_launches", [] {
    py::list launches;
    for (const LaunchRecord& record : take_launches()) launches.append(as_dict(record));
    return launches;
  });
  m.def("probe_names", &probe_names);
  m.def("run_probe", [](const std::string& name, uintptr_t in, uintptr_t out, int count) {
    run_probe(name, reinterpret_cast<const float*>(in), reinterpret_cast<float*>(out), count);
  });
#ifdef SWIFTNET_EMULATION_COVERAGE
  m.def("write_coverage", &__gcov_dump);
#endif
}
