//! The workload `watch` on its own: `cargo bench -p blazedb-bench --bench watch`.

use std::process::ExitCode;

fn main() -> ExitCode {
    blazedb_bench::main_of(blazedb_bench::Workload::Watch)
}
