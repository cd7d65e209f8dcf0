//! The OpenAPI document of the control interface.

use relay::control::operator::openapi::document;

/// `OPENAPI_WRITE=1` writes the file.
#[test]
fn the_committed_document_is_what_the_types_and_handlers_say() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/openapi.json");
    let document = document();
    if std::env::var_os("OPENAPI_WRITE").is_some() {
        std::fs::write(path, &document).expect("written");
    }
    let committed = std::fs::read_to_string(path).expect("docs/openapi.json");
    assert!(
        committed == document,
        "OPENAPI_WRITE=1 cargo test --test control openapi"
    );
}

#[test]
fn the_document_is_openapi_3_1_and_every_reference_in_it_leads_somewhere() {
    let document: serde_json::Value = serde_json::from_str(&document()).expect("JSON");
    assert_eq!(document["openapi"], "3.1.0");
    let text = document.to_string();
    let references = text
        .split("\"$ref\":\"#")
        .skip(1)
        .filter_map(|rest| rest.split('"').next());
    let dangling: Vec<_> = references.filter(|it| document.pointer(it).is_none()).collect();
    assert!(dangling.is_empty(), "{dangling:?}");
    let paths = document["paths"].as_object().expect("paths");
    assert_eq!(paths.len(), 8);
    let operations = paths
        .values()
        .filter_map(serde_json::Value::as_object)
        .flat_map(|path| path.values());
    let ids: Vec<_> = operations
        .map(|it| it["operationId"].as_str().expect("an id"))
        .collect();
    let unique: std::collections::HashSet<_> = ids.iter().collect();
    assert_eq!(unique.len(), ids.len(), "{ids:?}");
}
