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

/// Whether a token may be shown.
type MayShow = Box<dyn Fn(&Token) -> bool + Send + Sync>;

/// Where a node's token comes from. By default it has none.
#[derive(Default)]
pub(crate) struct TokenSource {
    file: Option<WatchedFile<Option<Token>>>,
    /// The tokens of another source, as far as they may be shown.
    of: Option<(Arc<TokenSource>, MayShow)>,
    token: watch::Sender<Option<Token>>,
}

impl TokenSource {
    /// The token in a file. If it is not `needed`, a file that is not there means that there is no token.
    pub(crate) fn file(path: PathBuf, needed: bool) -> Self {
        let file = match needed {
            true => WatchedFile::new(path, parse),
            false => WatchedFile::optional(path, parse, || None),
        };
        Self { file: Some(file), ..Self::default() }
    }

    /// The tokens of another source that may be shown. Must be called inside a tokio runtime.
    pub(crate) fn shown_to(
        of: Arc<Self>,
        may_show: impl Fn(&Token) -> bool + Send + Sync + 'static,
    ) -> Arc<Self> {
        let mut tokens = of.subscribe();
        let shown = Arc::new(Self { of: Some((of, Box::new(may_show))), ..Self::default() });
        shown.take_over();
        let weak = Arc::downgrade(&shown);
        tokio::spawn(async move {
            while tokens.changed().await.is_ok()
                && let Some(shown) = weak.upgrade()
            {
                shown.take_over();
            }
        });
        shown
    }

    fn take_over(&self) {
        let Some((of, may_show)) = &self.of else { return };
        let token = of.token.borrow().clone();
        self.set(token.filter(|token| may_show(token)));
    }

    /// Whether there is a token that is not shown.
    pub(crate) fn withholds(&self) -> bool {
        self.of.as_ref().is_some_and(|(of, _)| of.token.borrow().is_some()) && self.token.borrow().is_none()
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
        if let Some((of, _)) = &self.of {
            of.refresh()?;
            self.take_over();
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_what_may_be_shown_is_taken_from_another_source() {
        let token = |text: &str| Some(text.parse::<Token>().unwrap());
        let of = Arc::<TokenSource>::default();
        of.set(token("hidden"));
        let shown = TokenSource::shown_to(Arc::clone(&of), |token| token.as_str() != "hidden");
        let mut tokens = shown.subscribe();
        assert_eq!(*tokens.borrow_and_update(), None);
        assert!(shown.withholds());
        of.set(token("bound"));
        tokens.changed().await.unwrap();
        assert_eq!(*tokens.borrow_and_update(), token("bound"));
        of.set(token("hidden"));
        tokens.changed().await.unwrap();
        assert_eq!(*tokens.borrow_and_update(), None);
        of.set(None);
        shown.refresh().unwrap();
        assert!(!shown.withholds());
    }
}
