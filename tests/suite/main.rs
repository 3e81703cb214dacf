//! The test suite: one binary, a module for each subject.

mod simulator_client;
mod simulator_commands;
mod simulator_faults;
mod simulator_fencing;
mod simulator_load;
mod simulator_reading;
