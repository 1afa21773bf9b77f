//! `blazedb bench`: the built-in workloads.

use clap::Args;

/// Arguments of `bench`.
#[derive(Args, Debug)]
pub struct BenchArgs {
    /// Workload; all of them without it
    pub workload: Option<String>,
    /// Records that a workload works on
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub records: u64,
}
