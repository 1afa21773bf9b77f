//! The workload `fanout` on its own: `cargo bench -p blazedb-bench --bench fanout`.

use std::process::ExitCode;

fn main() -> ExitCode {
    blazedb_bench::main_of(blazedb_bench::Workload::Fanout)
}
