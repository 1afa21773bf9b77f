//! Addresses: what a node dials ([`Endpoint`]) and what it listens on ([`ListenAddress`]).
//!
//! Invariant: both print to a text that parses to the same address, so an address can name a link.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use crate::limits::MAX_PREFIX_BYTES;

const WS_PORT: u16 = 80;
const WSS_PORT: u16 = 443;
/// Length of a DNS name, in bytes (RFC 1035, section 2.3.4).
const MAX_HOST_BYTES: usize = 253;
/// Length of one label of a DNS name, in bytes (RFC 1035, section 2.3.4).
const MAX_LABEL_BYTES: usize = 63;

/// Why a text is not an address.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AddressError {
    /// Neither `ws://` nor `wss://`.
    #[error("expected an address like \"ws://host:port\" or \"wss://host\", found {0:?}")]
    Scheme(String),
    /// A query, a user, or a path that is no prefix: the database's name goes into `remote`.
    #[error(
        "an address is scheme, host, port and perhaps the path prefix of a proxy, without {0:?} (the database's name over there is `remote`)"
    )]
    Extra(String),
    /// No valid host name or IP address.
    #[error("{0:?} is no host name or IP address (IPv6 goes in brackets)")]
    Host(String),
    /// Not a number from 1 to 65535 (0 is allowed where the system may choose).
    #[error("{0:?} is no port")]
    Port(String),
    /// A listening address needs its port.
    #[error("expected \"host:port\", like \"127.0.0.1:7401\"")]
    PortMissing,
}

/// Where a remote node listens: `ws://host[:port][/prefix]` or `wss://...`; the prefix is for a proxy, which takes it
/// off.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Endpoint {
    tls: bool,
    host: String,
    port: u16,
    prefix: String,
}

impl Endpoint {
    /// Whether to speak TLS (`wss`).
    #[must_use]
    pub const fn tls(&self) -> bool {
        self.tls
    }

    /// Host name in lower case, or IP address; IPv6 without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// TCP port; 80 or 443 where the address had none.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// `host:port`, with the brackets that IPv6 needs: what a resolver takes.
    #[must_use]
    pub fn authority(&self) -> String {
        format!("{}:{}", bracketed(&self.host), self.port)
    }

    /// The URL of `target`, a path with a leading slash and perhaps a query, on this node.
    #[must_use]
    pub fn url(&self, target: &str) -> String {
        format!("{self}{target}")
    }
}

impl FromStr for Endpoint {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let scheme = || AddressError::Scheme(text.to_owned());
        let (name, rest) = text.split_once("://").ok_or_else(scheme)?;
        let tls = match name.to_ascii_lowercase().as_str() {
            "ws" => false,
            "wss" => true,
            _ => return Err(scheme()),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (authority, prefix) = rest.split_at(rest.find(['/', '?', '#', '@']).unwrap_or(rest.len()));
        if !is_prefix(prefix) {
            return Err(AddressError::Extra(prefix.to_owned()));
        }
        let (host, port) = host_and_port(authority)?;
        let port = match port {
            Some(0) => return Err(AddressError::Port("0".to_owned())),
            Some(port) => port,
            None if tls => WSS_PORT,
            None => WS_PORT,
        };
        Ok(Self { tls, host, port, prefix: prefix.to_owned() })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, default) = if self.tls { ("wss", WSS_PORT) } else { ("ws", WS_PORT) };
        write!(f, "{scheme}://{}", bracketed(&self.host))?;
        if self.port != default {
            write!(f, ":{}", self.port)?;
        }
        f.write_str(&self.prefix)
    }
}

/// Where this node listens: a host name or IP address, and a port (0: the system chooses).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ListenAddress {
    host: String,
    port: u16,
}

impl ListenAddress {
    /// Host name in lower case, or IP address; IPv6 without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// TCP port; 0 lets the system choose.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Whether only this machine can reach it: an address of the loopback range, or `localhost`.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        match self.host.parse::<IpAddr>() {
            Ok(ip) => ip.to_canonical().is_loopback(),
            Err(_) => self.host == "localhost",
        }
    }
}

impl FromStr for ListenAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (host, port) = host_and_port(text)?;
        Ok(Self { host, port: port.ok_or(AddressError::PortMissing)? })
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", bracketed(&self.host), self.port)
    }
}

fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

/// Whether `path` may stand before `/sync/...`: nothing, or segments of unreserved characters (RFC 3986). `sync`
/// itself is refused: whoever writes it means a database.
fn is_prefix(path: &str) -> bool {
    let unreserved = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    let segment = |s: &str| !matches!(s, "" | "." | ".." | "sync") && s.bytes().all(unreserved);
    match path.strip_prefix('/') {
        Some(segments) => path.len() <= MAX_PREFIX_BYTES && segments.split('/').all(segment),
        None => path.is_empty(),
    }
}

fn host_and_port(text: &str) -> Result<(String, Option<u16>), AddressError> {
    if let Some(rest) = text.strip_prefix('[') {
        let bad = || AddressError::Host(text.to_owned());
        let (host, rest) = rest.split_once(']').ok_or_else(bad)?;
        let ip: Ipv6Addr = host.parse().map_err(|_| bad())?;
        let port = match rest.strip_prefix(':') {
            Some(port) => Some(parse_port(port)?),
            None if rest.is_empty() => None,
            None => return Err(bad()),
        };
        return Ok((ip.to_string(), port));
    }
    let (host, port) = match text.split_once(':') {
        Some((host, port)) => (host, Some(parse_port(port)?)),
        None => (text, None),
    };
    Ok((parse_host(host)?, port))
}

fn parse_port(text: &str) -> Result<u16, AddressError> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let port = if digits { text.parse().ok() } else { None };
    port.ok_or_else(|| AddressError::Port(text.to_owned()))
}

fn parse_host(text: &str) -> Result<String, AddressError> {
    let bad = || AddressError::Host(text.to_owned());
    if let Ok(ip) = text.parse::<Ipv4Addr>() {
        return Ok(ip.to_string());
    }
    let label = |label: &str| {
        (1..=MAX_LABEL_BYTES).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let numeric = text.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
    if text.len() > MAX_HOST_BYTES || numeric || !text.split('.').all(label) {
        return Err(bad());
    }
    Ok(text.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn endpoints_parse_to_one_canonical_form() {
        for (text, shown, host, port, tls) in [
            ("ws://127.0.0.1:7500", "ws://127.0.0.1:7500", "127.0.0.1", 7500, false),
            ("wss://Hub.Example.com/", "wss://hub.example.com", "hub.example.com", 443, true),
            ("WS://ipad.local:80", "ws://ipad.local", "ipad.local", 80, false),
            ("ws://[::1]:7401", "ws://[::1]:7401", "::1", 7401, false),
            ("wss://[2001:DB8::0:7]", "wss://[2001:db8::7]", "2001:db8::7", 443, true),
            ("ws://blaze_hub:9", "ws://blaze_hub:9", "blaze_hub", 9, false),
            ("WSS://Hub:443/Blaze/v1/", "wss://hub/Blaze/v1", "hub", 443, true),
        ] {
            let endpoint: Endpoint = text.parse().unwrap();
            assert_eq!((endpoint.host(), endpoint.port(), endpoint.tls()), (host, port, tls), "{text}");
            assert_eq!(endpoint.to_string(), shown);
        }
        assert_eq!("ws://[::1]".parse::<Endpoint>().unwrap().authority(), "[::1]:80");
        let behind_proxy: Endpoint = "wss://hub/blaze/".parse().unwrap();
        assert_eq!(behind_proxy.url("/sync/bugs?from=b"), "wss://hub/blaze/sync/bugs?from=b");
    }

    #[test]
    fn what_is_no_endpoint_is_refused() {
        for text in ["", "hub:7500", "http://hub", "ws:/hub", "wss//hub"] {
            assert!(matches!(text.parse::<Endpoint>(), Err(AddressError::Scheme(_))), "{text}");
        }
        let long = format!("ws://hub/{}", "a".repeat(MAX_PREFIX_BYTES));
        for text in [
            "ws://hub/sync/bugs",
            "ws://hub?x",
            "ws://hub#x",
            "ws://user@hub",
            "ws://hub//",
            "ws://hub/a//b",
            "ws://hub/a?x",
            "ws://hub/a/../b",
            "ws://hub/a b",
            "ws://hub/user@b",
            &long,
        ] {
            assert!(matches!(text.parse::<Endpoint>(), Err(AddressError::Extra(_))), "{text}");
        }
        for text in
            ["ws://", "ws://:80", "ws://a..b", "ws://-a", "ws://a b", "ws://[::1", "ws://[::1]x", "ws://[a]"]
        {
            assert!(matches!(text.parse::<Endpoint>(), Err(AddressError::Host(_))), "{text}");
        }
        for text in ["ws://1.2.3.4.5", "ws://256.1.1.1", "ws://é"] {
            assert!(matches!(text.parse::<Endpoint>(), Err(AddressError::Host(_))), "{text}");
        }
        for text in ["ws://a:", "ws://a:0", "ws://a:65536", "ws://a:+1", "ws://a:x", "ws://::1"] {
            assert!(matches!(text.parse::<Endpoint>(), Err(AddressError::Port(_))), "{text}");
        }
    }

    #[test]
    fn loopback_is_what_only_this_machine_reaches() {
        for (text, loopback) in [
            ("127.0.0.1:0", true),
            ("127.9.9.9:1", true),
            ("localhost:1", true),
            ("[::1]:1", true),
            ("[::ffff:127.0.0.1]:1", true),
            ("0.0.0.0:1", false),
            ("[::]:1", false),
            ("192.0.2.1:1", false),
            ("localhost.example.com:1", false),
        ] {
            assert_eq!(text.parse::<ListenAddress>().unwrap().is_loopback(), loopback, "{text}");
        }
        assert_eq!("127.0.0.1".parse::<ListenAddress>(), Err(AddressError::PortMissing));
    }

    proptest! {
        #[test]
        fn any_text_parses_to_what_prints_and_parses_again(text in "(ws|wss)://[a-z0-9.:\\[\\]_/-]{0,24}|.{0,40}") {
            if let Ok(endpoint) = text.parse::<Endpoint>() {
                prop_assert_eq!(endpoint.to_string().parse::<Endpoint>(), Ok(endpoint));
            }
            if let Ok(listen) = text.parse::<ListenAddress>() {
                prop_assert_eq!(listen.to_string().parse::<ListenAddress>(), Ok(listen));
            }
        }
    }
}
