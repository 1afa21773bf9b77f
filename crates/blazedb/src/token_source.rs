//! Who this node's user is to others: a token that an application sets, or one in a file that may be replaced.
//!
//! Invariant: links never see a token of a file that can't be read; a session that is open keeps what it has then.

use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use blazedb_core::wire::Token;
use blazedb_transport::{FileProblem, WatchedFile};
use tokio::sync::watch;

use crate::fanout::blocking;

/// How often the file is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Where a node's token comes from. By default it has none.
#[derive(Debug, Default)]
pub(crate) struct TokenSource {
    file: Option<WatchedFile<Option<Token>>>,
    token: watch::Sender<Option<Token>>,
}

impl TokenSource {
    /// The token in a file. If it is not `needed`, a file that is not there means that there is no token.
    pub(crate) fn file(path: PathBuf, needed: bool) -> Self {
        let file = match needed {
            true => WatchedFile::new(path, parse),
            false => WatchedFile::optional(path, parse, || None),
        };
        Self { file: Some(file), token: watch::Sender::default() }
    }

    /// The token now, and those that follow.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Option<Token>> {
        self.token.subscribe()
    }

    pub(crate) fn set(&self, token: Option<Token>) {
        self.token.send_if_modified(|held| {
            let changed = *held != token;
            *held = token;
            changed
        });
    }

    /// Looks at the file.
    pub(crate) fn refresh(&self) -> Result<(), FileProblem> {
        if let Some(file) = &self.file {
            self.set((*file.current()?).clone());
        }
        Ok(())
    }

    /// Looks at the file, if there is one, for as long as anybody needs it.
    pub(crate) fn keep_fresh(self: &Arc<Self>) {
        if self.file.is_none() {
            return;
        }
        let source: Weak<Self> = Arc::downgrade(self);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(LOOK).await;
                let Some(source) = source.upgrade() else { return };
                // A problem is told by the next link that connects.
                let _ = blocking(move || source.refresh()).await;
            }
        });
    }
}

fn parse(text: &str) -> Result<Option<Token>, String> {
    text.trim().parse().map(Some).map_err(|error| format!("no token: {error}"))
}
