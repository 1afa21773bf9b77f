//! The workload `seal` on its own: `cargo bench -p blazedb-bench --bench seal`.

use std::process::ExitCode;

fn main() -> ExitCode {
    blazedb_bench::main_of(blazedb_bench::Workload::Seal)
}
