//! `blazedb demo`: the main job, without any set-up.

use std::time::Duration;

use clap::Args;

use crate::demo;
use crate::output::{CliError, Output};

/// Arguments of `demo`.
#[derive(Args, Debug)]
pub struct DemoArgs {
    /// Stop after this many seconds; otherwise at ^C
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u64).range(1..))]
    pub seconds: Option<u64>,
}

/// Runs the demo.
///
/// # Errors
/// If a node can't be started, or the databases do not end up equal.
pub async fn run(args: &DemoArgs, output: &mut Output) -> Result<(), CliError> {
    demo::run(args.seconds.map(Duration::from_secs), output).await
}
