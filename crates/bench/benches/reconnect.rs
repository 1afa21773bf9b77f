//! The workload `reconnect` on its own: `cargo bench -p blazedb-bench --bench reconnect`.

use std::process::ExitCode;

fn main() -> ExitCode {
    blazedb_bench::main_of(blazedb_bench::Workload::Reconnect)
}
