//! Names the fields in which two values differ.

use serde::Serialize;
use serde_json::Value;

/// A field that differs: its path, and both values as JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FieldDifference {
    pub(crate) path: String,
    pub(crate) truth: String,
    pub(crate) stored: String,
}

/// Every field in which `truth` and `stored` differ. Values that are equal cost one comparison only.
pub(crate) fn differences<T: Serialize + PartialEq>(truth: &T, stored: &T) -> Vec<FieldDifference> {
    if truth == stored {
        return Vec::new();
    }
    let mut found = Vec::new();
    match (serde_json::to_value(truth), serde_json::to_value(stored)) {
        (Ok(truth), Ok(stored)) => walk("", &truth, &stored, &mut found),
        _ => found.push(FieldDifference { path: "value".to_owned(), truth: String::new(), stored: String::new() }),
    }
    if found.is_empty() {
        // Unequal, yet the same as JSON: still a difference.
        found.push(FieldDifference { path: "value".to_owned(), truth: "?".to_owned(), stored: "?".to_owned() });
    }
    found
}

fn walk(path: &str, truth: &Value, stored: &Value, found: &mut Vec<FieldDifference>) {
    let inner = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    match (truth, stored) {
        (Value::Object(a), Value::Object(b)) => {
            for (name, value) in a {
                walk(&inner(name), value, b.get(name).unwrap_or(&Value::Null), found);
            }
            for (name, value) in b.iter().filter(|(name, _)| !a.contains_key(*name)) {
                walk(&inner(name), &Value::Null, value, found);
            }
        }
        _ if truth == stored => {}
        _ => found.push(FieldDifference {
            path: if path.is_empty() { "value".to_owned() } else { path.to_owned() },
            truth: truth.to_string(),
            stored: stored.to_string(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_field_that_differs_is_named_with_both_values() {
        let (a, b) = (json!({"x": 1, "y": {"z": "a"}}), json!({"x": 1, "y": {"z": "b"}}));
        let found = differences(&a, &b);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].path.as_str(), found[0].truth.as_str()), ("y.z", "\"a\""));
    }

    #[test]
    fn a_field_that_one_side_lacks_differs_in_both_directions() {
        let (a, b) = (json!({"x": 1}), json!({"y": 2}));
        let paths: Vec<_> = differences(&a, &b).into_iter().map(|field| field.path).collect();
        assert_eq!(paths, ["x", "y"]);
    }

    #[test]
    fn equal_values_have_no_differences() {
        assert!(differences(&json!({"x": [1, 2]}), &json!({"x": [1, 2]})).is_empty());
    }
}
