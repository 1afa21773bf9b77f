//! The workload `local` on its own: `cargo bench -p blazedb-bench --bench local`.

use std::process::ExitCode;

fn main() -> ExitCode {
    blazedb_bench::main_of(blazedb_bench::Workload::Local)
}
