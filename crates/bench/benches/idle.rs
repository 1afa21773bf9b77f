//! The workload `idle` on its own: `cargo bench -p blazedb-bench --bench idle`.

use std::process::ExitCode;

fn main() -> ExitCode {
    blazedb_bench::main_of(blazedb_bench::Workload::Idle)
}
