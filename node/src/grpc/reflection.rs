//! Server reflection: tools learn the API from the server.
// Differs from etcd: which has none.

use axum::Router;
use tonic_reflection::server::Builder;

pub(super) fn routes(router: Router) -> Router {
    let builder = || Builder::configure().register_encoded_file_descriptor_set(quorate_api::DESCRIPTORS);
    let reason = "the build has written them";
    router
        .route_service("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", builder().build_v1().expect(reason))
        .route_service(
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
            builder().build_v1alpha().expect(reason),
        )
}
