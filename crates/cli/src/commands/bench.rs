//! `blazedb bench`: the built-in workloads.

use blazedb_bench::{BenchError, Workload, to_json, to_table};
use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser as _};

use crate::output::{CliError, ErrorCode, Output};

/// Arguments of `bench`.
#[derive(Args, Debug)]
pub struct BenchArgs {
    /// Workload; all of them without it
    #[arg(value_parser = workload())]
    pub workload: Option<String>,
    /// Records of the bulk sync; other workloads take as many up to a size of their own
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub records: u64,
}

fn workload() -> impl clap::builder::TypedValueParser<Value = String> {
    PossibleValuesParser::new(Workload::ALL.map(Workload::name)).map(|name| name)
}

/// Measures, then prints a table, or an array of objects.
///
/// # Errors
/// [`ErrorCode::Failed`] if something fails that is measured; a missed target is a figure, not an error.
pub(crate) fn run(args: &BenchArgs, output: &mut Output) -> Result<(), CliError> {
    let asked = args.workload.as_deref().and_then(Workload::from_name);
    let mut measures = Vec::new();
    for workload in Workload::ALL.into_iter().filter(|one| asked.is_none_or(|asked| asked == *one)) {
        output.note(format!("measuring {} ...", workload.name()));
        measures.extend(workload.run(args.records).map_err(failed)?);
    }
    if output.json() { output.line(to_json(&measures)) } else { output.line(to_table(&measures).trim_end()) }
}

/// Runs a node of a benchmark until its parent ends it.
///
/// # Errors
/// [`ErrorCode::Failed`] if the parent can't be talked to.
pub(crate) fn serve_node() -> Result<(), CliError> {
    blazedb_bench::serve_node().map_err(failed)
}

fn failed(error: BenchError) -> CliError {
    CliError::new(ErrorCode::Failed, format!("bench: {error}"))
}
