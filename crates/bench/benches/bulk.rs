//! The workload `bulk` on its own: `cargo bench -p blazedb-bench --bench bulk`.

use std::process::ExitCode;

fn main() -> ExitCode {
    blazedb_bench::main_of(blazedb_bench::Workload::Bulk)
}
