//! The test suite: one binary, a file for each behaviour.

mod store_agree;
mod store_batches;
mod store_content;
mod store_contract;
mod store_fixture;
mod store_intents;
mod store_look_up;
mod store_postgres;
mod store_proxy;
mod store_settle;
mod store_speed;
mod store_sqlite;
