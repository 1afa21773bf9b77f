//! Small private files: readable by their owner only, replaced whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use blazedb_core::limits::MAX_NODE_FILE_BYTES;

/// The text of `path`, or `None` if there is no such file.
///
/// # Errors
/// What the system says; `InvalidData` for a file over [`MAX_NODE_FILE_BYTES`] or in another encoding than UTF-8.
pub fn read_text(path: &Path) -> io::Result<Option<String>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut text = String::new();
    file.take(MAX_NODE_FILE_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_NODE_FILE_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the file is too long"));
    }
    Ok(Some(text))
}

/// Replaces `path` by `text`: after a crash it holds the old text or the new one.
///
/// # Errors
/// What the system says; the old text is still there then.
pub fn replace(path: &Path, text: &str) -> io::Result<()> {
    let draft = write_draft(path, text)?;
    fs::rename(&draft, path).inspect_err(|_| discard(&draft))?;
    sync_parent(path)
}

/// Creates `path` with `text`.
///
/// # Errors
/// What the system says; `AlreadyExists` if another process was faster, whose file then stays.
pub fn create(path: &Path, text: &str) -> io::Result<()> {
    let draft = write_draft(path, text)?;
    match fs::hard_link(&draft, path) {
        Ok(()) => discard(&draft),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            discard(&draft);
            return Err(error);
        }
        // Phones and memory cards have no hard links; the window for a race is then as small as it gets.
        Err(_) if !path.exists() => fs::rename(&draft, path).inspect_err(|_| discard(&draft))?,
        Err(error) => {
            discard(&draft);
            return Err(error);
        }
    }
    sync_parent(path)
}

/// Removes `path`, for good also after a crash. `NotFound` if another process was faster.
///
/// # Errors
/// What the system says.
pub fn remove(path: &Path) -> io::Result<()> {
    fs::remove_file(path)?;
    sync_parent(path)
}

fn write_draft(path: &Path, text: &str) -> io::Result<PathBuf> {
    static DRAFTS: AtomicU64 = AtomicU64::new(0);
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}-{}.draft", std::process::id(), DRAFTS.fetch_add(1, Ordering::Relaxed)));
    let draft = path.with_file_name(name);
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&draft)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).inspect_err(|_| discard(&draft))?;
    Ok(draft)
}

/// A draft that can't be removed is litter, not a failure.
fn discard(draft: &Path) {
    if let Err(error) = fs::remove_file(draft) {
        tracing::debug!(path = %draft.display(), %error, "a draft stays behind");
    }
}

#[cfg(unix)]
fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
}

#[cfg(not(unix))]
fn sync_parent(_: &Path) -> io::Result<()> {
    Ok(())
}
