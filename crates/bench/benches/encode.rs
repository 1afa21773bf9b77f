//! The workload `encode` on its own: `cargo bench -p blazedb-bench --bench encode`.

use std::process::ExitCode;

fn main() -> ExitCode {
    blazedb_bench::main_of(blazedb_bench::Workload::Encode)
}
