// Checks the ONNX and ORT files of a release bundle on ONNX Runtime for Java, Android's or a desktop's: `main(FOLDER)`.
//
// Each must give the logits of the golden vectors within its tolerance. Exit code: 0 right, 1 wrong, 2 nothing could be
// checked. How an app calls the model stands in `classify`. Android brings org.json; elsewhere it is a library.

import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtEnvironment
import ai.onnxruntime.OrtSession
import java.io.File
import kotlin.math.abs
import kotlin.system.exitProcess
import org.json.JSONArray
import org.json.JSONObject

/** Logits of one sequence: a row of features for each time step, of which the first [length] count. */
fun OrtSession.classify(signature: JSONObject, sequence: Array<FloatArray>, length: Int): FloatArray {
    val environment = OrtEnvironment.getEnvironment()
    val names = signature.getJSONArray("inputs").objects().map { it.getString("name") }
    val inputs = mutableMapOf(names[0] to OnnxTensor.createTensor(environment, arrayOf(sequence)))
    if (names.size > 1) inputs[names[1]] = OnnxTensor.createTensor(environment, intArrayOf(length))
    try {
        return run(inputs).use { (it[0].value as Array<*>)[0] as FloatArray }
    } finally {
        inputs.values.forEach(OnnxTensor::close)
    }
}

private fun JSONArray.objects() = List(length(), ::getJSONObject)

private fun JSONArray.floats() = FloatArray(length()) { getDouble(it).toFloat() }

private fun read(folder: File, name: String) = JSONObject(File(folder, name).readText())

/** The largest difference from the golden logits, as a share of the largest of them: once NaN, it stays NaN. */
private fun largestError(session: OrtSession, signature: JSONObject, vectors: List<JSONObject>, file: String): Float {
    var worst = 0f
    var scale = 0f
    for (vector in vectors) {
        val rows = vector.getJSONArray("sequence")
        val logits = session.classify(signature, Array(rows.length()) { rows.getJSONArray(it).floats() }, vector.getInt("length"))
        val expected = vector.getJSONObject("logits").getJSONArray(file).floats()
        check(logits.size == expected.size) { "$file: ${logits.size} logits; expected ${expected.size}" }
        worst = maxOf(worst, logits.zip(expected) { found, golden -> abs(found - golden) }.reduce(::maxOf))
        scale = maxOf(scale, expected.maxOf(::abs))
    }
    return if (scale > 0) worst / scale else worst
}

/** Checks every file, and says how many are wrong. */
fun verify(folder: File): Int {
    val models = read(folder, "release.json").getJSONObject("models")
    val signatures = read(folder, "signature.json")
    val vectors = read(folder, "golden.json").getJSONArray("vectors").objects()
    val files = models.keys().asSequence().filter { it.endsWith(".onnx") || it.endsWith(".ort") }.sorted().toList()
    check(files.isNotEmpty()) { "$folder: no ONNX file in it" }
    val options = OrtSession.SessionOptions().apply {
        setIntraOpNumThreads(1) // int8 logits depend on the number
        setCPUArenaAllocator(false) // faster for one sequence at a time
    }
    return files.count { file ->
        val error = OrtEnvironment.getEnvironment().createSession(File(folder, file).path, options).use {
            largestError(it, signatures.getJSONObject(file), vectors, file)
        }
        val tolerance = models.getJSONObject(file).getDouble("tolerance")
        val right = error <= tolerance
        println("%s  %s: error %.1e, allowed %.0e, %d vectors".format(file, if (right) "right" else "WRONG", error, tolerance, vectors.size))
        !right
    }
}

fun main(arguments: Array<String>) {
    val wrong = runCatching { verify(File(arguments.firstOrNull() ?: ".")) }
        .getOrElse { System.err.println("verify: error: ${it.message}"); exitProcess(2) }
    exitProcess(if (wrong > 0) 1 else 0)
}
