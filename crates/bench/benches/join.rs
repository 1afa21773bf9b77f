//! The workload `join` on its own: `cargo bench -p blazedb-bench --bench join`.

use std::process::ExitCode;

fn main() -> ExitCode {
    blazedb_bench::main_of(blazedb_bench::Workload::Join)
}
