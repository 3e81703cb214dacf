//! How settings with a unit are read: the unit stands in the key, the value is an integer.

use serde::{Deserialize, Deserializer, de::Error};
use std::net::SocketAddr;

/// `…_ms = 500`.
pub(super) mod milliseconds {
    use super::{Deserialize, Deserializer};
    use std::time::Duration;

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_millis)
    }
}

/// `…_s = 30`.
pub(super) mod seconds {
    use super::{Deserialize, Deserializer};
    use std::time::Duration;

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_secs)
    }
}

/// `IP:port`, if it is given.
pub(super) fn address_if_any<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SocketAddr>, D::Error> {
    address(deserializer).map(Some)
}

/// `IP:port`; names are not looked up, so that a start does not depend on a name server.
pub(super) fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse()
        .map_err(|_| D::Error::custom(format!("{text:?} is not an address: write IP:port, such as \"127.0.0.1:7400\"")))
}
