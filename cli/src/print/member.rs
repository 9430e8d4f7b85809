//! Members.

use quorate_api::etcdserverpb::{
    Member, MemberAddResponse, MemberListResponse, MemberPromoteResponse, MemberRemoveResponse, MemberUpdateResponse,
    ResponseHeader,
};

use crate::go;
use crate::json::{self, Object};
use crate::print::{Show, Style, Text, encode, header_json, id};
use crate::table::Table;

impl Show for MemberListResponse {
    fn simple(&self, _style: Style, out: &mut Text) {
        for member in &self.members {
            out.line(columns(member).join(", "));
        }
    }

    fn json(&self, style: Style) -> Option<String> {
        Some(members_json(self.header.as_ref(), None, &self.members, style))
    }

    fn fields(&self, style: Style, out: &mut Text) -> bool {
        out.header(self.header.as_ref(), style);
        for member in &self.members {
            out.field("ID", id(member.id, style));
            out.field("Name", go::quote(member.name.as_bytes()));
            for url in &member.peer_ur_ls {
                out.field("PeerURL", go::quote(url.as_bytes()));
            }
            for url in &member.client_ur_ls {
                out.field("ClientURL", go::quote(url.as_bytes()));
            }
            out.field("IsLearner", member.is_learner);
            out.line("");
        }
        true
    }

    fn table(&self, _style: Style) -> Option<String> {
        let mut table = Table::new(&["ID", "STATUS", "NAME", "PEER ADDRS", "CLIENT ADDRS", "IS LEARNER"]);
        for member in &self.members {
            table.row(columns(member));
        }
        Some(table.render())
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        encode(self)
    }
}

fn columns(member: &Member) -> Vec<String> {
    vec![
        format!("{:x}", member.id),
        if member.name.is_empty() { "unstarted" } else { "started" }.to_owned(),
        member.name.clone(),
        member.peer_ur_ls.join(","),
        member.client_ur_ls.join(","),
        member.is_learner.to_string(),
    ]
}

fn members_json(header: Option<&ResponseHeader>, member: Option<&Member>, all: &[Member], style: Style) -> String {
    let header = match (header, style.hex) {
        (Some(h), true) => Some(hex_header(h)),
        (header, _) => header_json(header),
    };
    Object::new()
        .some("header", header)
        .some("member", member.map(|m| member_json(m, style)))
        .list("members", all.iter().map(|m| member_json(m, style)))
        .build()
}

fn hex_header(header: &ResponseHeader) -> String {
    Object::new()
        .string("cluster_id", &format!("{:x}", header.cluster_id))
        .string("member_id", &format!("{:x}", header.member_id))
        .number("revision", header.revision)
        .number("raft_term", header.raft_term)
        .build()
}

fn member_json(member: &Member, style: Style) -> String {
    let object = match style.hex {
        true => Object::new().string("ID", &format!("{:x}", member.id)),
        false => Object::new().number("ID", member.id),
    };
    object
        .string("name", &member.name)
        .list("peerURLs", member.peer_ur_ls.iter().map(|url| json::string(url)))
        .list("clientURLs", member.client_ur_ls.iter().map(|url| json::string(url)))
        .flag("isLearner", member.is_learner)
        .build()
}

/// A member was added under the name the user gave.
#[derive(Clone, Debug, PartialEq)]
pub struct MemberAdded {
    /// The name; the server learns it when the member starts.
    pub name: String,
    /// The response.
    pub response: MemberAddResponse,
}

impl Show for MemberAdded {
    fn simple(&self, _style: Style, out: &mut Text) {
        let added = self.response.member.clone().unwrap_or_default();
        let cluster = self.response.header.as_ref().map_or(0, |h| h.cluster_id);
        let role = if added.is_learner { "as learner " } else { "" };
        out.line(format!("Member {:16x} added {role}to cluster {cluster:16x}", added.id));
        let mut initial = Vec::new();
        for member in &self.response.members {
            let name = if member.id == added.id { &self.name } else { &member.name };
            initial.extend(member.peer_ur_ls.iter().map(|url| format!("{name}={url}")));
        }
        out.line("");
        out.line(format!("ETCD_NAME={}", go::quote(self.name.as_bytes())));
        out.line(format!("ETCD_INITIAL_CLUSTER=\"{}\"", initial.join(",")));
        out.line(format!("ETCD_INITIAL_ADVERTISE_PEER_URLS=\"{}\"", added.peer_ur_ls.join(",")));
        out.line("ETCD_INITIAL_CLUSTER_STATE=\"existing\"");
    }

    fn json(&self, style: Style) -> Option<String> {
        let r = &self.response;
        Some(members_json(r.header.as_ref(), r.member.as_ref(), &r.members, style))
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        encode(&self.response)
    }
}

macro_rules! show_member_change {
    ($(#[$about:meta])* $name:ident, $response:ident, $verb:literal) => {
        $(#[$about])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name {
            /// The member.
            pub id: u64,
            /// The response.
            pub response: $response,
        }

        impl Show for $name {
            fn simple(&self, _style: Style, out: &mut Text) {
                let cluster = self.response.header.as_ref().map_or(0, |h| h.cluster_id);
                out.line(format!(concat!("Member {:16x} ", $verb, " cluster {:16x}"), self.id, cluster));
            }

            fn json(&self, style: Style) -> Option<String> {
                Some(members_json(self.response.header.as_ref(), None, &self.response.members, style))
            }

            fn protobuf(&self) -> Option<Vec<u8>> {
                encode(&self.response)
            }
        }
    };
}

show_member_change!(
    /// A member was removed.
    MemberRemoved,
    MemberRemoveResponse,
    "removed from"
);
show_member_change!(
    /// A member's peer URLs were changed.
    MemberUpdated,
    MemberUpdateResponse,
    "updated in"
);
show_member_change!(
    /// A learner was made a voter.
    MemberPromoted,
    MemberPromoteResponse,
    "promoted in"
);
