//! The workload `latency` on its own: `cargo bench -p blazedb-bench --bench latency`.

use std::process::ExitCode;

fn main() -> ExitCode {
    blazedb_bench::main_of(blazedb_bench::Workload::Latency)
}
