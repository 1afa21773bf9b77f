//! `blazedb import`, `export` and `replay`: many records at once.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, BufRead, BufReader, IsTerminal as _, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use axum::body::Body;
use axum::http::Method;
use blazedb_core::topology::{DatabaseName, TopologySpec};
use clap::{Args, ValueEnum};
use flate2::bufread::MultiGzDecoder;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Deserialize;
use serde_json::{Value as Json, json};

use crate::args::GlobalArgs;
use crate::client::Client;
use crate::commands::chunks::Chunks;
use crate::commands::csv::{CsvError, Rows};
use crate::load::{entry, load};
use crate::output::{CliError, ErrorCode, Output};

/// The longest line of an input, in bytes.
const MAX_LINE: u64 = 32 << 20;

/// How a file begins that is compressed with gzip (RFC 1952).
const GZIP: &[u8] = &[0x1f, 0x8b];
/// What some programs write in front of UTF-8.
const UTF8_MARK: &[u8] = b"\xef\xbb\xbf";

/// Arguments of `import`.
#[derive(Args, Debug)]
pub struct ImportArgs {
    /// Database
    pub db: DatabaseName,
    /// File with records, plain or under gzip; - for stdin
    #[arg(id = "path", value_name = "FILE")]
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
    /// Edit trace as NDJSON, plain or under gzip; - for stdin
    #[arg(id = "path", value_name = "FILE")]
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

/// `import`.
///
/// # Errors
/// The line that is wrong, or what keeps the database from being written; what came before is imported.
pub async fn import(args: &ImportArgs, global: &GlobalArgs, output: &mut Output) -> Result<(), CliError> {
    let format = args.format.unwrap_or_else(|| format_of(&args.file));
    let input = Input::open(&args.file, output)?;
    let client = Client::open(global, &args.db).await?;
    let unit = if format == ImportFormat::Json { "record" } else { "line" };
    let path = format!("/v1/databases/{}/import", args.db);
    let mut chunks = Chunks::new(client, path, input.name.clone(), unit);
    let done = import_all(format, input, &mut chunks).await;
    let imported = chunks.done();
    match done {
        Ok(()) if output.json() => output.line(json!({ "imported": imported })),
        Ok(()) => {
            output.note(format_args!("{imported} records imported"));
            Ok(())
        }
        Err(error) => {
            let before = format!("{imported} records before it are imported");
            let hint = error.hint.as_ref().map_or_else(|| before.clone(), |hint| format!("{before}; {hint}"));
            Err(error.with_hint(hint))
        }
    }
}

fn format_of(file: &Path) -> ImportFormat {
    let plain = if file.extension().is_some_and(|ending| ending == "gz") {
        Path::new(file.file_stem().unwrap_or_default())
    } else {
        file
    };
    let ending = plain.extension().and_then(|ending| ending.to_str()).map(str::to_ascii_lowercase);
    match ending.as_deref() {
        Some("json") => ImportFormat::Json,
        Some("csv") => ImportFormat::Csv,
        _ => ImportFormat::Ndjson,
    }
}

async fn import_all(format: ImportFormat, mut input: Input, chunks: &mut Chunks) -> Result<(), CliError> {
    let read = match format {
        ImportFormat::Ndjson => import_lines(&mut input, chunks).await,
        ImportFormat::Json => import_array(&mut input, chunks).await,
        ImportFormat::Csv => import_csv(&mut input, chunks).await,
    };
    input.bar.finish_and_clear();
    // What stands before a line that can't even be read is imported as well.
    chunks.flush().await?;
    read
}

async fn import_lines(input: &mut Input, chunks: &mut Chunks) -> Result<(), CliError> {
    while let Some((number, line)) = input.line()? {
        chunks.push(number, line.trim_ascii()).await?;
    }
    Ok(())
}

async fn import_array(input: &mut Input, chunks: &mut Chunks) -> Result<(), CliError> {
    let invalid =
        |error| CliError::new(ErrorCode::Invalid, format!("{}: not a JSON array: {error}", input.name));
    let records: Vec<Json> = serde_json::from_reader(&mut input.reader).map_err(invalid)?;
    for (number, record) in (1..).zip(records) {
        chunks.push(number, record.to_string().as_bytes()).await?;
    }
    Ok(())
}

async fn import_csv(input: &mut Input, chunks: &mut Chunks) -> Result<(), CliError> {
    let name = input.name.clone();
    let wrong = |line: u64, error: CsvError| match error {
        CsvError::Io(error) => CliError::io(&name, &error),
        error => CliError::new(ErrorCode::Invalid, format!("{name}, line {line}: {error}")),
    };
    let mut rows = Rows::new(&mut input.reader).map_err(|error| wrong(1, error))?;
    loop {
        let line = rows.line();
        let Some((number, record)) = rows.next().map_err(|error| wrong(line, error))? else { return Ok(()) };
        chunks.push(number, record.to_string().as_bytes()).await?;
    }
}

/// A file or stdin, read by lines.
struct Input {
    name: String,
    reader: Box<dyn BufRead + Send>,
    number: u64,
    buffer: Vec<u8>,
    bar: ProgressBar,
}

impl Input {
    fn open(file: &Path, output: &Output) -> Result<Self, CliError> {
        let stdin = file == Path::new("-");
        let name = if stdin { "stdin".to_owned() } else { file.display().to_string() };
        let failed = |error: &io::Error| CliError::io(&name, error);
        let (reader, size): (Box<dyn Read + Send>, _) = if stdin {
            (Box::new(io::stdin()), None)
        } else {
            let file = std::fs::File::open(file).map_err(|error| failed(&error))?;
            let size = file.metadata().map_err(|error| failed(&error))?.len();
            (Box::new(file), Some(size))
        };
        let bar = progress(size, output);
        let mut reader = buffered(bar.wrap_read(reader));
        if reader.fill_buf().map_err(|error| failed(&error))?.starts_with(GZIP) {
            reader = buffered(MultiGzDecoder::new(reader));
        }
        if reader.fill_buf().map_err(|error| failed(&error))?.starts_with(UTF8_MARK) {
            reader.consume(UTF8_MARK.len());
        }
        Ok(Self { name, reader, number: 0, buffer: Vec::new(), bar })
    }

    /// The next line that is not blank, with its number.
    fn line(&mut self) -> Result<Option<(u64, &[u8])>, CliError> {
        loop {
            self.buffer.clear();
            let mut capped = (&mut self.reader).take(MAX_LINE);
            let read = capped
                .read_until(b'\n', &mut self.buffer)
                .map_err(|error| CliError::io(&self.name, &error))?;
            if read == 0 {
                return Ok(None);
            }
            self.number += 1;
            if read as u64 == MAX_LINE {
                return Err(self.wrong(format!("longer than {MAX_LINE} bytes")));
            }
            if !self.buffer.trim_ascii().is_empty() {
                break;
            }
        }
        Ok(Some((self.number, &self.buffer)))
    }

    fn wrong(&self, problem: impl std::fmt::Display) -> CliError {
        CliError::new(ErrorCode::Invalid, format!("{}, line {}: {problem}", self.name, self.number))
    }
}

fn buffered(reader: impl Read + Send + 'static) -> Box<dyn BufRead + Send> {
    Box::new(BufReader::with_capacity(64 << 10, reader))
}

fn progress(size: Option<u64>, output: &Output) -> ProgressBar {
    if !io::stderr().is_terminal() || output.json() || output.quiet() {
        return ProgressBar::hidden();
    }
    let Some(size) = size else { return ProgressBar::new_spinner() };
    let style = ProgressStyle::with_template("{wide_bar} {bytes}/{total_bytes} {eta}");
    ProgressBar::new(size).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// `export`.
///
/// # Errors
/// What keeps the database from being read.
pub async fn export(args: &ExportArgs, global: &GlobalArgs, output: &mut Output) -> Result<(), CliError> {
    let mut client = Client::open(global, &args.db).await?;
    let bar = if io::stdout().is_terminal() { ProgressBar::hidden() } else { progress(None, output) };
    let path = format!("/v1/databases/{}/export", args.db);
    let reply = client.ask(Method::GET, &path, Body::empty()).await?;
    let done = reply.lines(|line| {
        bar.inc(1);
        output.bytes(line)
    });
    let done = done.await;
    bar.finish_and_clear();
    done
}

/// What says where an edit belongs.
#[derive(Deserialize)]
struct Edit {
    at: u64,
    actor: String,
    db: String,
}

/// `replay`.
///
/// # Errors
/// The line that is wrong, or what keeps a database from being written; what came before is applied.
pub async fn replay(args: &ReplayArgs, global: &GlobalArgs, output: &mut Output) -> Result<(), CliError> {
    let spec = load(global)?;
    for mapping in &args.map {
        entry(&spec, &mapping.to)?;
    }
    let mut input = Input::open(&args.file, output)?;
    let mut replay =
        Replay { spec, args, file: &global.file, targets: BTreeMap::new(), ranks: Ranks::default() };
    let read = replay.lines(&mut input).await;
    input.bar.finish_and_clear();
    for chunks in replay.targets.values_mut() {
        chunks.flush().await?;
    }
    read?;
    let applied: BTreeMap<String, u64> =
        replay.targets.iter().map(|(name, chunks)| (name.to_string(), chunks.done())).collect();
    if output.json() {
        return output.line(json!({ "applied": applied }));
    }
    applied.iter().for_each(|(name, edits)| output.note(format_args!("{name}: {edits} edits applied")));
    Ok(())
}

struct Replay<'a> {
    spec: TopologySpec,
    args: &'a ReplayArgs,
    file: &'a Path,
    targets: BTreeMap<DatabaseName, Chunks>,
    ranks: Ranks,
}

impl Replay<'_> {
    async fn lines(&mut self, input: &mut Input) -> Result<(), CliError> {
        while let Some((number, line)) = input.line()? {
            let line = line.trim_ascii().to_vec();
            let edit: Edit = serde_json::from_slice(&line).map_err(|error| {
                input.wrong(error.to_string().replace(" at line 1 column ", " at column "))
            })?;
            let target = self.target(&edit.db).map_err(|error| CliError {
                message: format!("{}, line {number}: {}", input.name, error.message),
                ..error
            })?;
            let rank = self.ranks.next(&target, &edit.actor, edit.at);
            let ranked = [format!("[{rank},").as_bytes(), &line, b"]"].concat();
            self.chunks(target, &input.name).await?.push(number, &ranked).await?;
        }
        Ok(())
    }

    fn target(&self, name: &str) -> Result<DatabaseName, CliError> {
        if let Some(mapping) = self.args.map.iter().find(|mapping| mapping.from == name) {
            return Ok(mapping.to.clone());
        }
        let known = self.spec.databases.keys().find(|known| known.as_str() == name);
        known.cloned().ok_or_else(|| {
            CliError::new(ErrorCode::NotFound, format!("no database {name:?} in the topology file"))
                .with_hint(format!("--map {name}=OTHER replays its edits in another one"))
        })
    }

    async fn chunks(&mut self, name: DatabaseName, source: &str) -> Result<&mut Chunks, CliError> {
        if !self.targets.contains_key(&name) {
            let client = Client::open_all(&self.spec, self.file, std::slice::from_ref(&name)).await?;
            let path = format!("/v1/databases/{name}/replay");
            let chunks = Chunks::new(client, path, source.to_owned(), "line");
            self.targets.insert(name.clone(), chunks);
        }
        let missing = || CliError::new(ErrorCode::Failed, format!("database {name} is not open"));
        self.targets.get_mut(&name).ok_or_else(missing)
    }
}

/// Counts what one actor did in one database in one millisecond: the first edit here has number 0. The node that takes
/// them knows what came earlier.
#[derive(Default)]
struct Ranks {
    actors: HashMap<(DatabaseName, String), u32>,
    next: HashMap<(u32, u64), u32>,
}

impl Ranks {
    fn next(&mut self, database: &DatabaseName, actor: &str, at: u64) -> u32 {
        let fresh = u32::try_from(self.actors.len()).unwrap_or(u32::MAX);
        let number = *self.actors.entry((database.clone(), actor.to_owned())).or_insert(fresh);
        let next = self.next.entry((number, at)).or_default();
        *next += 1;
        *next - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_format_is_known_by_its_ending_also_under_gzip() {
        let formats = ["a.ndjson", "a.json", "a.JSON.gz", "a.csv.gz", "a.gz", "-"];
        let (ndjson, json, csv) = (ImportFormat::Ndjson, ImportFormat::Json, ImportFormat::Csv);
        assert_eq!(formats.map(|file| format_of(Path::new(file))), [ndjson, json, json, csv, ndjson, ndjson]);
    }

    #[test]
    fn ranks_count_what_one_actor_did_at_one_time() {
        let mut ranks = Ranks::default();
        let [bugs, users] = ["bugs", "users"].map(|name| name.parse().unwrap());
        let asked = [("a", 1), ("b", 1), ("a", 1), ("a", 2), ("a", 1)];
        assert_eq!(asked.map(|(actor, at)| ranks.next(&bugs, actor, at)), [0, 0, 1, 0, 2]);
        assert_eq!(asked.map(|(actor, at)| ranks.next(&users, actor, at)), [0, 0, 1, 0, 2]);
    }
}
