//! The binary `blazedb`; everything it does is in the library beside it.

use std::process::ExitCode;

fn main() -> ExitCode {
    blazedb_cli::run(std::env::args_os().collect())
}
