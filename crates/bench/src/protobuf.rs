//! The bug record with a schema: for Protobuf, and for MessagePack without dynamic values.

use serde::{Deserialize, Serialize};

/// A bug as a Protobuf message with one tag per field; every field may be missing.
#[derive(Clone, PartialEq, prost::Message, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Bug {
    #[prost(string, optional, tag = "1")]
    number: Option<String>,
    #[prost(string, optional, tag = "2")]
    status: Option<String>,
    #[prost(bool, optional, tag = "3")]
    active: Option<bool>,
    #[prost(string, optional, tag = "4")]
    product: Option<String>,
    #[prost(string, optional, tag = "5")]
    component: Option<String>,
    #[prost(string, optional, tag = "6")]
    symptom: Option<String>,
    #[prost(string, optional, tag = "7")]
    config_item: Option<String>,
    #[prost(string, optional, tag = "8")]
    impact: Option<String>,
    #[prost(string, optional, tag = "9")]
    urgency: Option<String>,
    #[prost(string, optional, tag = "10")]
    priority: Option<String>,
    #[prost(bool, optional, tag = "11")]
    priority_confirmed: Option<bool>,
    #[prost(string, optional, tag = "12")]
    team: Option<String>,
    #[prost(string, optional, tag = "13")]
    assigned_to: Option<String>,
    #[prost(string, optional, tag = "14")]
    reporter: Option<String>,
    #[prost(string, optional, tag = "15")]
    opened_by: Option<String>,
    #[prost(int64, optional, tag = "16")]
    opened_at: Option<i64>,
    #[prost(string, optional, tag = "17")]
    contact_type: Option<String>,
    #[prost(string, optional, tag = "18")]
    location: Option<String>,
    #[prost(bool, optional, tag = "19")]
    knowledge: Option<bool>,
    #[prost(string, optional, tag = "20")]
    notify: Option<String>,
    #[prost(bool, optional, tag = "21")]
    made_sla: Option<bool>,
    #[prost(string, optional, tag = "22")]
    problem: Option<String>,
    #[prost(string, optional, tag = "23")]
    rfc: Option<String>,
    #[prost(string, optional, tag = "24")]
    vendor: Option<String>,
    #[prost(string, optional, tag = "25")]
    caused_by: Option<String>,
    #[prost(int64, optional, tag = "26")]
    reassignment_count: Option<i64>,
    #[prost(int64, optional, tag = "27")]
    reopen_count: Option<i64>,
    #[prost(int64, optional, tag = "28")]
    mod_count: Option<i64>,
    #[prost(string, optional, tag = "29")]
    resolved_by: Option<String>,
    #[prost(int64, optional, tag = "30")]
    resolved_at: Option<i64>,
    #[prost(string, optional, tag = "31")]
    closed_code: Option<String>,
    #[prost(int64, optional, tag = "32")]
    closed_at: Option<i64>,
}
