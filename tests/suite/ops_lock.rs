//! Goal: one process a node (design §5). Method: the lock taken twice; by a child process; freed.

#![allow(clippy::unwrap_used)]

use remeet::ops::lock::{LockError, NodeLock};

#[test]
fn a_second_holder_is_refused_and_told_who_holds_the_lock() {
    let state = tempfile::tempdir().unwrap();
    let lock = NodeLock::take(state.path()).unwrap();
    let error = NodeLock::take(state.path()).unwrap_err();
    assert!(matches!(&error, LockError::Held { pid: Some(pid), .. } if *pid == std::process::id()), "{error}");
    let text = error.to_string();
    assert!(text.contains(&format!("process {}", std::process::id())), "{text}");
    assert!(text.contains(lock.path().to_str().unwrap()) && text.contains("node id of its own"), "{text}");
    drop(lock);
    NodeLock::take(state.path()).expect("free again");
}

#[test]
fn the_state_directory_is_made_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let parent = tempfile::tempdir().unwrap();
    let state = parent.path().join("a/b");
    let lock = NodeLock::take(&state).unwrap();
    assert_eq!(std::fs::metadata(&state).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(std::fs::metadata(lock.path()).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_left_over_lock_file_with_any_content_holds_nobody_back() {
    let state = tempfile::tempdir().unwrap();
    std::fs::write(state.path().join("node.lock"), "9999999999999999999 left by a longer text").unwrap();
    let lock = NodeLock::take(state.path()).unwrap();
    assert_eq!(std::fs::read_to_string(lock.path()).unwrap(), format!("{}\n", std::process::id()));
}

#[test]
fn a_place_that_cannot_be_used_is_named() {
    let state = tempfile::tempdir().unwrap();
    let file = state.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = NodeLock::take(&file.join("below")).unwrap_err();
    assert!(matches!(error, LockError::Unusable { .. }) && error.to_string().contains("state_directory"), "{error}");
}

#[test]
fn a_state_directory_has_a_name_of_its_own_that_stays() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let first = NodeLock::take(one.path()).unwrap().id().to_owned();
    assert_eq!(NodeLock::take(one.path()).unwrap().id(), first);
    assert_ne!(NodeLock::take(other.path()).unwrap().id(), first, "so two nodes of one name are told apart");
    std::fs::write(one.path().join("node.id"), "").unwrap();
    assert_eq!(NodeLock::take(one.path()).unwrap().id().len(), 8, "an empty one is made anew");
}
