//! The etcd v3 client API as protobuf types, and the envelope of Quorate's peer protocol.
//!
//! Modules are named as the protobuf packages. Without feature `grpc` there are only messages: what the simulator and
//! the checker need. `bytes` fields are [`bytes::Bytes`]: decoding from a `Bytes` shares its memory.
#![allow(missing_docs, reason = "generated from .proto files; the comments there are the documentation")]
#![allow(clippy::all, clippy::pedantic, unreachable_pub, reason = "generated")]

/// The descriptors of every package that clients see, as an encoded `FileDescriptorSet`.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Keys with their values and counters, and events.
pub mod mvccpb {
    include!(concat!(env!("OUT_DIR"), "/mvccpb.rs"));
}

/// Users, roles and permissions.
pub mod authpb {
    include!(concat!(env!("OUT_DIR"), "/authpb.rs"));
}

/// The services and messages of an etcd server.
pub mod etcdserverpb {
    include!(concat!(env!("OUT_DIR"), "/etcdserverpb.rs"));
}

/// Locks as a service.
pub mod v3lockpb {
    include!(concat!(env!("OUT_DIR"), "/v3lockpb.rs"));
}

/// Elections as a service.
pub mod v3electionpb {
    include!(concat!(env!("OUT_DIR"), "/v3electionpb.rs"));
}

/// Standard gRPC packages.
pub mod grpc {
    #[allow(missing_docs)]
    pub mod health {
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/grpc.health.v1.rs"));
        }
    }
}

/// Quorate's own packages.
pub mod quorate {
    pub mod peer {
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/quorate.peer.v1.rs"));
        }
    }
}
