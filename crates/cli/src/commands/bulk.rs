//! `blazedb import`, `export` and `replay`: many records at once.

use std::path::PathBuf;
use std::str::FromStr;

use blazedb_core::topology::DatabaseName;
use clap::{Args, ValueEnum};

/// Arguments of `import`.
#[derive(Args, Debug)]
pub struct ImportArgs {
    /// Database
    pub db: DatabaseName,
    /// File with records; - for stdin
    pub file: PathBuf,
    /// The file's format; otherwise by its ending, NDJSON for stdin
    #[arg(long, value_enum)]
    pub format: Option<ImportFormat>,
}

/// What a file to import holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum ImportFormat {
    /// One JSON object a line
    Ndjson,
    /// A JSON array of objects
    Json,
    /// A header line with the fields' names, then one record a line
    Csv,
}

/// Arguments of `export`.
#[derive(Args, Debug)]
pub struct ExportArgs {
    /// Database
    pub db: DatabaseName,
}

/// Arguments of `replay`.
#[derive(Args, Debug)]
pub struct ReplayArgs {
    /// Edit trace as NDJSON; - for stdin
    pub file: PathBuf,
    /// Replay the edits of the trace's database FROM in database TO (may be repeated)
    #[arg(long, value_name = "FROM=TO")]
    pub map: Vec<DatabaseMapping>,
}

/// Which database takes the edits that a trace made in another one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DatabaseMapping {
    /// The name in the trace.
    pub from: String,
    /// The database of the topology file.
    pub to: DatabaseName,
}

/// Why a text is not a mapping.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MappingError {
    /// No equals sign.
    #[error("expected FROM=TO")]
    Form,
    /// The second part is not a database's name.
    #[error(transparent)]
    Name(#[from] blazedb_core::topology::DatabaseNameError),
}

impl FromStr for DatabaseMapping {
    type Err = MappingError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (from, to) = text.split_once('=').ok_or(MappingError::Form)?;
        Ok(Self { from: from.to_owned(), to: to.parse()? })
    }
}
