//! What a command says: data on stdout, notes and errors on stderr.
//!
//! Invariants: an error is one line, or one JSON object on one line; its code decides the exit code.

use std::io::{self, BufWriter, IsTerminal as _, Write};

use serde_json::json;

use crate::args::GlobalArgs;

/// What kind of failure it was. Scripts read it, so a code keeps its word and its exit code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ErrorCode {
    /// The command line is wrong.
    Usage,
    /// The topology file is wrong or missing.
    Config,
    /// The operation failed for another reason.
    Failed,
    /// No such record, database or file.
    NotFound,
    /// It exists already, or somebody else changed it.
    Conflict,
    /// An input is not valid: a filter, a record, a file to import.
    Invalid,
    /// The system refused to read or write.
    Io,
    /// Another process has the database open.
    Locked,
    /// Not in this build.
    Unavailable,
    /// The other side could not be reached.
    Unreachable,
    /// The other side did not answer in time.
    Timeout,
    /// The other side does not accept who this is, or is not who it should be.
    Unauthenticated,
    /// Access rules forbid it.
    Forbidden,
    /// The file is damaged.
    Damaged,
    /// The password is wrong.
    WrongPassword,
    /// Whoever read stdout went away: not a failure.
    BrokenPipe,
}

impl ErrorCode {
    /// The word in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Usage => "usage",
            Self::Config => "config",
            Self::Failed => "failed",
            Self::NotFound => "not_found",
            Self::Conflict => "conflict",
            Self::Invalid => "invalid",
            Self::Io => "io",
            Self::Locked => "locked",
            Self::Unavailable => "unavailable",
            Self::Unreachable => "unreachable",
            Self::Timeout => "timeout",
            Self::Unauthenticated => "unauthenticated",
            Self::Forbidden => "forbidden",
            Self::Damaged => "damaged",
            Self::WrongPassword => "wrong_password",
            Self::BrokenPipe => "broken_pipe",
        }
    }

    /// The code of a word in JSON; [`ErrorCode::Failed`] if there is none.
    #[must_use]
    pub fn from_word(word: &str) -> Self {
        let all = [
            Self::Usage,
            Self::Config,
            Self::NotFound,
            Self::Conflict,
            Self::Invalid,
            Self::Io,
            Self::Locked,
            Self::Unavailable,
            Self::Unreachable,
            Self::Timeout,
            Self::Unauthenticated,
            Self::Forbidden,
            Self::Damaged,
            Self::WrongPassword,
        ];
        all.into_iter().find(|code| code.as_str() == word).unwrap_or(Self::Failed)
    }

    /// The exit code of a command that ends with it.
    #[must_use]
    pub const fn exit(self) -> u8 {
        match self {
            Self::BrokenPipe => 0,
            Self::Failed | Self::NotFound | Self::Conflict | Self::Io | Self::Locked | Self::Unavailable => 1,
            Self::Usage | Self::Config | Self::Invalid => 2,
            Self::Unreachable | Self::Timeout => 3,
            Self::Unauthenticated | Self::Forbidden => 4,
            Self::Damaged | Self::WrongPassword => 5,
        }
    }
}

/// Why a command ended without doing what it was asked.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{message}")]
pub struct CliError {
    /// What kind of failure.
    pub code: ErrorCode,
    /// What is wrong, and where.
    pub message: String,
    /// What to do about it, if anything can be said.
    pub hint: Option<String>,
}

impl CliError {
    /// A failure without a hint.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None }
    }

    /// The same with what to do about it.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// A failure to read or write `what`.
    #[must_use]
    pub fn io(what: impl std::fmt::Display, error: &io::Error) -> Self {
        let code = match error.kind() {
            io::ErrorKind::BrokenPipe => ErrorCode::BrokenPipe,
            io::ErrorKind::NotFound => ErrorCode::NotFound,
            io::ErrorKind::AlreadyExists => ErrorCode::Conflict,
            _ => ErrorCode::Io,
        };
        Self::new(code, format!("{what}: {error}"))
    }

    /// The line that people read.
    #[must_use]
    pub fn to_line(&self) -> String {
        let line = match &self.hint {
            Some(hint) => format!("error: {} ({hint})", self.message),
            None => format!("error: {}", self.message),
        };
        one_line(&line)
    }

    /// The object that scripts read. `hint` is null if there is none.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        json!({ "error": { "code": self.code.as_str(), "message": self.message, "hint": self.hint } })
    }
}

impl From<blazedb_hub::api::ApiError> for CliError {
    fn from(error: blazedb_hub::api::ApiError) -> Self {
        let code = ErrorCode::from_word(error.code.as_str());
        Self { code, message: error.message, hint: error.hint }
    }
}

impl From<blazedb_hub::NodeError> for CliError {
    fn from(error: blazedb_hub::NodeError) -> Self {
        blazedb_hub::api::ApiError::from(error).into()
    }
}

impl From<blazedb::StoreError> for CliError {
    fn from(error: blazedb::StoreError) -> Self {
        blazedb_hub::api::ApiError::from(error).into()
    }
}

fn one_line(text: &str) -> String {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

/// Prints an error on stderr; nothing for a broken pipe. What can't be printed there can't be printed anywhere.
pub fn report(error: &CliError, json: bool) {
    if error.code == ErrorCode::BrokenPipe {
        return;
    }
    let line = if json { error.to_json().to_string() } else { error.to_line() };
    let _ = writeln!(io::stderr(), "{line}");
}

/// Where a command writes.
pub struct Output {
    json: bool,
    quiet: bool,
    verbose: u8,
    live: bool,
    stdout: Box<dyn Write + Send>,
}

impl std::fmt::Debug for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Output").field("json", &self.json).finish_non_exhaustive()
    }
}

impl Output {
    /// Writes to the process's stdout: buffered, or line by line on a terminal.
    #[must_use]
    pub fn to_stdout(global: &GlobalArgs) -> Self {
        Self {
            live: io::stdout().is_terminal(),
            ..Self::to_writer(global, Box::new(BufWriter::new(io::stdout())))
        }
    }

    /// Writes data to `stdout`.
    #[must_use]
    pub fn to_writer(global: &GlobalArgs, stdout: Box<dyn Write + Send>) -> Self {
        Self { json: global.json, quiet: global.quiet, verbose: global.verbose, live: false, stdout }
    }

    /// Whether data should be JSON.
    #[must_use]
    pub const fn json(&self) -> bool {
        self.json
    }

    /// From now on each line is written at once: for commands that run on, like `watch`.
    pub const fn stay_live(&mut self) {
        self.live = true;
    }

    /// Writes a line of data.
    ///
    /// # Errors
    /// [`ErrorCode::BrokenPipe`] if nobody reads any more, [`ErrorCode::Io`] if stdout fails otherwise.
    pub fn line(&mut self, text: impl std::fmt::Display) -> Result<(), CliError> {
        writeln!(self.stdout, "{text}").map_err(|error| CliError::io("stdout", &error))?;
        if self.live { self.flush() } else { Ok(()) }
    }

    /// Writes what is buffered.
    ///
    /// # Errors
    /// As [`Output::line`].
    pub fn flush(&mut self) -> Result<(), CliError> {
        self.stdout.flush().map_err(|error| CliError::io("stdout", &error))
    }

    /// Whether people asked for nothing but data and errors.
    #[must_use]
    pub const fn quiet(&self) -> bool {
        self.quiet
    }

    /// Writes bytes of data as they are.
    ///
    /// # Errors
    /// As [`Output::line`].
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<(), CliError> {
        self.stdout.write_all(bytes).map_err(|error| CliError::io("stdout", &error))?;
        if self.live { self.flush() } else { Ok(()) }
    }

    /// Tells people something, on stderr, unless they asked for quiet or JSON.
    pub fn note(&self, text: impl std::fmt::Display) {
        if !self.quiet && !self.json {
            let _ = writeln!(io::stderr(), "{text}");
        }
    }

    /// Tells people more, on stderr, if they asked for it.
    pub fn detail(&self, text: impl std::fmt::Display) {
        if self.verbose > 0 {
            let _ = writeln!(io::stderr(), "{text}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn global() -> GlobalArgs {
        GlobalArgs { file: "blazedb.toml".into(), json: false, quiet: false, verbose: 0 }
    }

    #[test]
    fn an_error_is_one_line_whatever_its_message() {
        let error = CliError::new(ErrorCode::Failed, "first\n  second\n\nthird").with_hint("do\nthis");
        assert_eq!(error.to_line(), "error: first second third (do this)");
        assert!(!error.to_json().to_string().contains('\n'));
        assert_eq!(CliError::new(ErrorCode::Failed, "x").to_json()["error"]["hint"], serde_json::Value::Null);
    }

    struct Fails(io::ErrorKind);

    impl Write for Fails {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_went_away_is_no_failure_and_a_full_disk_is() {
        for (kind, code, exit) in [
            (io::ErrorKind::BrokenPipe, ErrorCode::BrokenPipe, 0),
            (io::ErrorKind::StorageFull, ErrorCode::Io, 1),
        ] {
            let error = Output::to_writer(&global(), Box::new(Fails(kind))).line("x").unwrap_err();
            assert_eq!((error.code, error.code.exit()), (code, exit));
        }
    }
}
