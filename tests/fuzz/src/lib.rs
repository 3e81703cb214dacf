//! What the fuzz targets share: inputs that get behind the checksum, and memory that is counted.

pub mod counting;
pub mod packets;
