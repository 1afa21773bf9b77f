//! The workload `sustained` on its own: `cargo bench -p blazedb-bench --bench sustained`.

use std::process::ExitCode;

fn main() -> ExitCode {
    blazedb_bench::main_of(blazedb_bench::Workload::Sustained)
}
