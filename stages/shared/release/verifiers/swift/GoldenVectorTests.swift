// Not run here: written where there is neither Swift nor Core ML; the project's tests parse it, and no more.
//
// Checks the Core ML packages of a release bundle on this Mac or, as a part of an app's tests, on a device. Each must
// give the logits of the golden vectors within its tolerance. How an app calls the model stands in `classify`.

import CoreML
import XCTest

struct Release: Decodable {
    struct Model: Decodable { let format: String, tolerance: Float }
    let models: [String: Model]
}

struct Signature: Decodable {
    struct Tensor: Decodable { let name: String }
    let inputs: [Tensor], outputs: [Tensor]
}

struct Golden: Decodable {
    struct Vector: Decodable {
        let kind: String, length: Int
        let sequence: [[Float]], logits: [String: [Float]]
    }
    let vectors: [Vector]
}

extension MLModel {
    /// Logits of one sequence: a row of features for each time step, of which the first `length` count.
    func classify(_ sequence: [[Float]], length: Int, as signature: Signature) throws -> [Float] {
        let values = MLShapedArray(scalars: sequence.flatMap { $0 }, shape: [1, sequence.count, sequence[0].count])
        var inputs = [signature.inputs[0].name: MLFeatureValue(shapedArray: values)]
        if signature.inputs.count > 1 {
            let lengths = MLShapedArray(scalars: [Int32(length)], shape: [1])
            inputs[signature.inputs[1].name] = MLFeatureValue(shapedArray: lengths)
        }
        let answer = try prediction(from: MLDictionaryFeatureProvider(dictionary: inputs))
        let logits = answer.featureValue(for: signature.outputs[0].name)?.shapedArrayValue(of: Float.self)
        return logits?.scalars ?? []
    }
}

final class GoldenVectorTests: XCTestCase {
    /// The bundle: in an app's tests the folder `release` among their resources, else the one that this file lies in.
    private let folder = Bundle(for: GoldenVectorTests.self).url(forResource: "release", withExtension: nil)
        ?? URL(fileURLWithPath: #filePath).deletingLastPathComponent().appendingPathComponent("../..").standardized

    private func read<Content: Decodable>(_ name: String) throws -> Content {
        try JSONDecoder().decode(Content.self, from: Data(contentsOf: folder.appendingPathComponent(name)))
    }

    func testEveryPackageGivesTheGoldenLogits() async throws {
        let release: Release = try read("release.json")
        let signatures: [String: Signature] = try read("signature.json")
        let golden: Golden = try read("golden.json")
        let packages = release.models.filter { $0.value.format == "coreml" }
        XCTAssertFalse(packages.isEmpty, "\(folder.path): no Core ML package in it")
        for (name, package) in packages {
            let signature = try XCTUnwrap(signatures[name])
            let compiled = try await MLModel.compileModel(at: folder.appendingPathComponent(name))
            let model = try MLModel(contentsOf: compiled)
            var worst: Float = 0, scale: Float = 0
            for vector in golden.vectors {
                let expected = try XCTUnwrap(vector.logits[name])
                let logits = try model.classify(vector.sequence, length: vector.length, as: signature)
                XCTAssertEqual(logits.count, expected.count, name)
                for (found, wanted) in zip(logits, expected) {
                    let error = abs(found - wanted)
                    if error.isNaN || error > worst { worst = error } // once NaN, it stays NaN
                    scale = max(scale, abs(wanted))
                }
            }
            let error = scale > 0 ? worst / scale : worst
            XCTAssertTrue(error <= package.tolerance, "\(name): error \(error), allowed \(package.tolerance)")
        }
    }
}
