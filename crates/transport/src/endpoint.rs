//! The address of a node that listens: `ws://host[:port][/prefix]` or `wss://...`.

use std::fmt;
use std::str::FromStr;

use tokio_tungstenite::tungstenite::http::Uri;

/// Where a node listens. Its text is normal: what means the same is written the same, so it can be a key.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Endpoint {
    tls: bool,
    host: String,
    port: u16,
    prefix: String,
}

/// A text that is not the address of a node.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EndpointError {
    /// It is not a URL.
    #[error("{text:?} is not a URL like ws://host:port or wss://host")]
    Malformed {
        /// What was given.
        text: String,
    },
    /// Its scheme is not that of a WebSocket.
    #[error("{text:?} must begin with ws:// or wss://")]
    Scheme {
        /// What was given.
        text: String,
    },
    /// It carries a user, a password, or a query, which mean nothing here.
    #[error("{text:?} must not carry a user, a password or a query")]
    Extra {
        /// What was given.
        text: String,
    },
}

impl Endpoint {
    /// Whether the connection is made with TLS.
    #[must_use]
    pub const fn tls(&self) -> bool {
        self.tls
    }

    /// Name or address of the host; an IPv6 address without its brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        self.host.trim_start_matches('[').trim_end_matches(']')
    }

    /// The TCP port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// The URL of a path below this endpoint.
    pub(crate) fn join(&self, target: &str) -> String {
        format!("{self}{target}")
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, usual) = if self.tls { ("wss", 443) } else { ("ws", 80) };
        write!(f, "{scheme}://{}", self.host)?;
        if self.port != usual {
            write!(f, ":{}", self.port)?;
        }
        f.write_str(&self.prefix)
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let malformed = || EndpointError::Malformed { text: text.to_owned() };
        let uri: Uri = text.trim().parse().map_err(|_| malformed())?;
        let tls = match uri.scheme_str().map(str::to_ascii_lowercase).as_deref() {
            Some("ws") => false,
            Some("wss") => true,
            Some(_) | None => return Err(EndpointError::Scheme { text: text.to_owned() }),
        };
        let authority = uri.authority().ok_or_else(malformed)?;
        if authority.as_str().contains('@') || uri.query().is_some() || text.contains('#') {
            return Err(EndpointError::Extra { text: text.to_owned() });
        }
        let host = authority.host().to_ascii_lowercase();
        let explicit = authority.as_str().get(host.len()..).unwrap_or_default();
        let port = match explicit.strip_prefix(':') {
            Some(digits) => digits.parse().ok().filter(|&port| port != 0).ok_or_else(malformed)?,
            None if tls => 443,
            None => 80,
        };
        if host.is_empty() {
            return Err(malformed());
        }
        Ok(Self { tls, host, port, prefix: uri.path().trim_end_matches('/').to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_and_normalises() {
        let cases = [
            ("ws://127.0.0.1:7500", "ws://127.0.0.1:7500", "127.0.0.1", 7500),
            ("wss://Hub.Example.com:443/", "wss://hub.example.com", "hub.example.com", 443),
            ("WS://hub:80/blaze/", "ws://hub/blaze", "hub", 80),
            ("ws://[::1]:7401", "ws://[::1]:7401", "::1", 7401),
        ];
        for (text, normal, host, port) in cases {
            let endpoint: Endpoint = text.parse().unwrap();
            assert_eq!(
                (endpoint.to_string().as_str(), endpoint.host(), endpoint.port()),
                (normal, host, port)
            );
            assert_eq!(endpoint.to_string().parse(), Ok(endpoint));
        }
    }

    #[test]
    fn refuses_what_it_would_ignore() {
        assert!(matches!("http://hub".parse::<Endpoint>(), Err(EndpointError::Scheme { .. })));
        assert!(matches!("hub:7500".parse::<Endpoint>(), Err(EndpointError::Scheme { .. })));
        for text in ["ws://me@hub", "ws://hub?x=1", "ws://hub/#here"] {
            assert!(matches!(text.parse::<Endpoint>(), Err(EndpointError::Extra { .. })), "{text}");
        }
        for text in ["", "ws://", "ws://hub:99999", "ws://hub:0", "ws://hub:"] {
            assert!(text.parse::<Endpoint>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn parsing_is_total_and_its_text_reads_back(text in "(wss?://)?\\PC*") {
            if let Ok(endpoint) = text.parse::<Endpoint>() {
                prop_assert_eq!(endpoint.to_string().parse(), Ok(endpoint));
            }
        }
    }
}
