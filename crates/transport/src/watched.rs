//! A file that is read again when it has changed.
//!
//! Invariant: what is handed out was parsed whole from the file as it was at the last look; a file that can't be read
//! or parsed gives an error and never what it held before.

use std::fs::Metadata;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use crate::files;

/// A file can't be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{}: {problem}", path.display())]
pub struct FileProblem {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: String,
}

/// What tells one state of a file from another; `None` if there is no file.
type Mark = Option<(SystemTime, u64, u64)>;
type Held<T> = Result<Arc<T>, FileProblem>;

/// A file, and what it said at the last look.
#[derive(Debug)]
pub struct WatchedFile<T> {
    path: PathBuf,
    parse: fn(&str) -> Result<T, String>,
    /// What the file means when it is not there.
    missing: Option<fn() -> T>,
    held: Mutex<Option<(Mark, Held<T>)>>,
}

impl<T> WatchedFile<T> {
    /// The file at `path`. `parse` says in words what is wrong with a text.
    #[must_use]
    pub const fn new(path: PathBuf, parse: fn(&str) -> Result<T, String>) -> Self {
        Self { path, parse, missing: None, held: Mutex::new(None) }
    }

    /// One that need not be there.
    #[must_use]
    pub const fn optional(path: PathBuf, parse: fn(&str) -> Result<T, String>, missing: fn() -> T) -> Self {
        Self { path, parse, missing: Some(missing), held: Mutex::new(None) }
    }

    /// What the file says now.
    ///
    /// # Errors
    /// [`FileProblem`].
    pub fn current(&self) -> Held<T> {
        let mark = std::fs::metadata(&self.path).ok().map(|meta| mark(&meta));
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, value)) = &*held
            && *known == mark
        {
            return value.clone();
        }
        let value = self.read();
        *held = Some((mark, value.clone()));
        value
    }

    fn read(&self) -> Held<T> {
        let problem = |problem: String| FileProblem { path: self.path.clone(), problem };
        let text = files::read_text(&self.path).map_err(|error| problem(error.to_string()))?;
        match (text, self.missing) {
            (Some(text), _) => (self.parse)(&text).map(Arc::new).map_err(problem),
            (None, Some(missing)) => Ok(Arc::new(missing())),
            (None, None) => Err(problem("there is no such file".to_owned())),
        }
    }
}

fn mark(meta: &Metadata) -> (SystemTime, u64, u64) {
    #[cfg(unix)]
    let inode = std::os::unix::fs::MetadataExt::ino(meta);
    #[cfg(not(unix))]
    let inode = 0;
    (meta.modified().unwrap_or(SystemTime::UNIX_EPOCH), meta.len(), inode)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(text: &str) -> Result<u32, String> {
        text.trim().parse().map_err(|_| "not a number".to_owned())
    }

    #[test]
    fn a_change_counts_at_the_next_look_and_an_error_hides_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("n");
        let file = WatchedFile::new(path.clone(), number);
        assert!(file.current().unwrap_err().to_string().contains("no such file"));
        files::replace(&path, "7").unwrap();
        assert_eq!(*file.current().unwrap(), 7);
        files::replace(&path, "8").unwrap();
        assert_eq!(*file.current().unwrap(), 8);
        files::replace(&path, "x").unwrap();
        assert!(file.current().unwrap_err().to_string().ends_with("n: not a number"));
        std::fs::remove_file(&path).unwrap();
        assert!(file.current().is_err());
        assert_eq!(*WatchedFile::optional(path, number, || 0).current().unwrap(), 0);
    }
}
