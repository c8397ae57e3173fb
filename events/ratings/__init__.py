"""The facts of what people think of images: ratings."""
