//! The workload `views` on its own: `cargo bench -p blazedb-bench --bench views`.

use std::process::ExitCode;

fn main() -> ExitCode {
    blazedb_bench::main_of(blazedb_bench::Workload::Views)
}
