//! An answer as it comes in.

use std::collections::VecDeque;
use std::time::Duration;

use blazedb_core::limits::{ASK_MS, HANDSHAKE_MS};
use blazedb_core::wire::ask::{Answer, Ask, Row};
use blazedb_transport::{Connection, Endpoint};
use tokio::time::timeout;

use super::AskError;

/// How long the other side may take for the next piece: as long as it may look for it, and for the way.
const WAIT: Duration = Duration::from_millis(ASK_MS + HANDSHAKE_MS);

/// The rows of an answer, as they come in; the other side waits while nobody asks for more. Dropped early, the question
/// is given up.
#[derive(Debug)]
pub struct RemoteRows {
    connection: Connection,
    remote: Endpoint,
    rows: VecDeque<Row>,
    ended: bool,
}

impl RemoteRows {
    /// Asks, and waits until it is known that there is an answer.
    pub(super) async fn start(
        mut connection: Connection,
        remote: Endpoint,
        ask: &Ask,
    ) -> Result<Self, AskError> {
        let sent = async {
            connection.sender.send(&[&ask.encode()]).await?;
            connection.sender.flush().await
        };
        match timeout(WAIT, sent).await {
            Err(_) => return Err(AskError::Silent { remote }),
            Ok(Err(error)) => return Err(AskError::Broken { remote, reason: error.to_string() }),
            Ok(Ok(())) => {}
        }
        let mut rows = Self { connection, remote, rows: VecDeque::new(), ended: false };
        rows.hear().await?;
        Ok(rows)
    }

    /// The next row; `None` when that was all.
    ///
    /// # Errors
    /// [`AskError`]: what came before it is right, and not all.
    pub async fn next(&mut self) -> Result<Option<Row>, AskError> {
        while self.rows.is_empty() && !self.ended {
            self.hear().await?;
        }
        Ok(self.rows.pop_front())
    }

    async fn hear(&mut self) -> Result<(), AskError> {
        let remote = || self.remote.clone();
        let broken = |reason: String| AskError::Broken { remote: remote(), reason };
        let frame = match timeout(WAIT, self.connection.receiver.recv()).await {
            Err(_) => return Err(AskError::Silent { remote: remote() }),
            Ok(Err(error)) => return Err(broken(error.to_string())),
            Ok(Ok(None)) => return Err(broken("the other side closed the connection".to_owned())),
            Ok(Ok(Some(frame))) => frame,
        };
        match Answer::decode(&frame).map_err(|error| broken(format!("malformed: {error}")))? {
            Answer::Rows(rows) => self.rows.extend(rows),
            Answer::End => self.ended = true,
            Answer::Failed(code, reason) => {
                self.ended = true;
                return Err(AskError::Refused { remote: self.remote.clone(), code, reason });
            }
        }
        Ok(())
    }
}
