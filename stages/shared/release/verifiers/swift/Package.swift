// swift-tools-version:5.9
// Not run here, as GoldenVectorTests.swift: `swift test --scratch-path /tmp/verify` on a Mac runs that file alone.

import PackageDescription

let package = Package(
    name: "Verify",
    platforms: [.macOS(.v14), .iOS(.v17)],
    targets: [.testTarget(name: "GoldenVectorTests", path: ".", exclude: ["README.md"], sources: ["GoldenVectorTests.swift"])]
)
