package io.github.kerasmobileone.bench

import android.content.ContentResolver
import android.content.Context
import android.net.Uri
import android.provider.OpenableColumns
import io.github.kerasmobileone.core.ModelException
import io.github.kerasmobileone.core.ModelFile
import java.io.File
import java.io.FileNotFoundException
import java.io.IOException
import java.io.InputStream

/**
 * A model that the app can use.
 *
 * @property bundled whether it came with the app.
 * @property details what the file says of itself, or null if it is not usable.
 * @property problem why it is not usable.
 */
class StoredModel(val file: File, val bundled: Boolean, val details: ModelFile?, val problem: ModelException? = null)

/** Why a file was not opened: a sentence for the user. */
class NotOpened(message: String, cause: Throwable? = null) : Exception(message, cause)

/**
 * The models in the app and those that the user opened.
 *
 * Runtimes map models from files, so the app's own ones are copied out of the APK at the first use.
 * Every method accesses the disk.
 *
 * @param refusalOf tries a file that is to be opened; returns why no runtime takes it, or null.
 */
class ModelStore(private val context: Context, private val refusalOf: (File) -> ModelException?) {
    private val own = File(context.noBackupFilesDir, "bundled")
    private val opened = File(context.noBackupFilesDir, "opened")
    private val known = HashMap<String, StoredModel>()

    /** All models: the app's own ones first, each group by name. */
    @Synchronized
    fun list(): List<StoredModel> {
        unpack()
        return modelsIn(own, bundled = true) + modelsIn(opened, bundled = false)
    }

    /** The model of that name, or null. */
    fun find(name: String): StoredModel? = list().find { it.file.name == name }

    /** Deletes a model that the user opened. */
    @Synchronized
    fun delete(model: StoredModel) {
        require(!model.bundled) { "Models of the app cannot be deleted. Received: ${model.file.name}." }
        known.remove(model.file.path)
        if (!model.file.delete()) throw IOException("Could not delete ${model.file}.")
    }

    /**
     * Copies a document and checks that it is a usable model.
     *
     * @throws NotOpened if it is too large, cannot be read or is not usable.
     */
    fun open(uri: Uri): StoredModel {
        val (name, size) = describe(uri)
        if (size > MAXIMUM_BYTES) throw tooLarge(size)
        opened.mkdirs()
        if (size > opened.usableSpace) throw NotOpened(context.getString(R.string.open_no_space))
        // Under its own name, which sentences about it contain.
        val directory = File(context.cacheDir, "opening")
        val temporary = File(directory, modelName(name))
        try {
            directory.mkdirs()
            copy(uri, temporary)
            check(temporary)
            return keep(temporary, temporary.name)
        } finally {
            directory.deleteRecursively()
        }
    }

    private fun copy(uri: Uri, target: File) = stream(uri).use { source ->
        try {
            target.outputStream().use { copyLimited(source, it, MAXIMUM_BYTES) }
        } catch (error: TooLarge) {
            throw tooLarge(error.size)
        } catch (error: IOException) {
            val full = target.usableSpace < SPARE_BYTES
            throw NotOpened(context.getString(if (full) R.string.open_no_space else R.string.open_failed), error)
        }
    }

    private fun check(file: File) {
        val problem = try {
            ModelFile.read(file)
            refusalOf(file)
        } catch (error: ModelException) {
            error
        }
        if (problem != null) throw NotOpened(context.sentence(problem), problem)
    }

    @Synchronized
    private fun keep(temporary: File, name: String): StoredModel {
        val target = freeName(name, temporary)
        if (!target.exists()) temporary.copyTo(target)
        return read(target, bundled = false)
    }

    /** The file of that name if it has the same content, else a name that is free. */
    private fun freeName(name: String, temporary: File): File {
        val base = name.removeSuffix(EXTENSION)
        val names = generateSequence(1) { it + 1 }.map { if (it == 1) name else "$base-$it$EXTENSION" }
        return names.map { File(opened, it) }.first { candidate ->
            val taken = File(own, candidate.name).exists()
            !taken && (!candidate.exists() || sameContent(candidate, temporary))
        }
    }

    private fun sameContent(one: File, other: File): Boolean {
        if (one.length() != other.length()) return false
        one.inputStream().buffered().use { a ->
            other.inputStream().buffered().use { b ->
                while (true) {
                    val byte = a.read()
                    if (byte != b.read()) return false
                    if (byte < 0) return true
                }
            }
        }
    }

    private fun stream(uri: Uri): InputStream = try {
        context.contentResolver.openInputStream(uri) ?: throw NotOpened(context.getString(R.string.open_failed))
    } catch (error: FileNotFoundException) {
        throw NotOpened(context.getString(R.string.open_failed), error)
    } catch (error: SecurityException) {
        throw NotOpened(context.getString(R.string.open_failed), error)
    }

    private fun describe(uri: Uri): Pair<String, Long> {
        val fallback = uri.lastPathSegment.orEmpty().substringAfterLast('/')
        // A file address could name a file of this app itself.
        if (uri.scheme != ContentResolver.SCHEME_CONTENT) throw NotOpened(context.getString(R.string.open_failed))
        val columns = arrayOf(OpenableColumns.DISPLAY_NAME, OpenableColumns.SIZE)
        val cursor = try {
            context.contentResolver.query(uri, columns, null, null, null)
        } catch (error: SecurityException) {
            throw NotOpened(context.getString(R.string.open_failed), error)
        }
        cursor?.use {
            if (it.moveToFirst()) {
                val name = it.getColumnIndex(OpenableColumns.DISPLAY_NAME)
                val size = it.getColumnIndex(OpenableColumns.SIZE)
                return (if (name < 0) null else it.getString(name)).orEmpty().ifEmpty { fallback } to
                    (if (size < 0 || it.isNull(size)) 0L else it.getLong(size))
            }
        }
        return fallback to 0L
    }

    private fun tooLarge(size: Long) = NotOpened(
        context.getString(R.string.open_too_large, megabytes(size), megabytes(MAXIMUM_BYTES)),
    )

    private fun unpack() {
        own.mkdirs()
        val version = File(own, "version")
        val current = context.packageManager.getPackageInfo(context.packageName, 0).lastUpdateTime.toString()
        if (version.isFile && version.readText() == current) return
        own.listFiles().orEmpty().forEach { it.delete() }
        for (name in context.assets.list(ASSETS).orEmpty().filter { it.endsWith(EXTENSION) }) {
            context.assets.open("$ASSETS/$name").use { source ->
                File(own, name).outputStream().use { source.copyTo(it) }
            }
        }
        version.writeText(current)
    }

    private fun modelsIn(directory: File, bundled: Boolean) =
        directory.listFiles().orEmpty().filter { it.name.endsWith(EXTENSION) }.sortedBy { it.name }
            .map { read(it, bundled) }

    private fun read(file: File, bundled: Boolean): StoredModel = known.getOrPut(file.path) {
        try {
            StoredModel(file, bundled, ModelFile.read(file))
        } catch (error: ModelException) {
            StoredModel(file, bundled, null, error)
        }
    }

    companion object {
        /** Larger files are refused: TFLite itself cannot load more than 2 GB. */
        const val MAXIMUM_BYTES = 1L shl 30

        /** Below this, a copy that failed is taken for one that found no room. */
        private const val SPARE_BYTES = 1L shl 20
        private const val ASSETS = "models"
        private const val EXTENSION = ".tflite"

        /** A safe file name: what a document is called may contain anything. */
        internal fun modelName(name: String): String {
            val safe = name.substringAfterLast('/').replace(Regex("[^\\p{L}\\p{N}._-]"), "_").trimStart('.')
            return safe.removeSuffix(EXTENSION).take(80).ifEmpty { "model" } + EXTENSION
        }
    }
}
